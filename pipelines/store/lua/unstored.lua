-- Note that a trend bucket is about to have an utterance of which no result is stored, so that who deletes the call looks there.
-- KEYS 1 call  2 unstored
-- ARGV 1 member  2 ttl_s
-- Returns when the call started, ms since 1970; nothing for an unknown call
local started_ms = redis.call('HGET', KEYS[1], 'started_ms')
if started_ms then
    redis.call('SADD', KEYS[2], ARGV[1])
    redis.call('EXPIRE', KEYS[2], ARGV[2])
end
return started_ms
