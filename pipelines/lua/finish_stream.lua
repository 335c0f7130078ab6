-- A stream is stored to its end; when every stream of the call is, the call is final.
-- KEYS 1 call  2 streams  3 checkpoint  4 tombstone  5 events
-- ARGV 1 owner  2 stream  3 events_max
-- Returns 'stored', 'already', 'fenced' or 'deleted'
if redis.call('EXISTS', KEYS[4]) == 1 then return 'deleted' end
if redis.call('HGET', KEYS[3], 'owner') ~= ARGV[1] then return 'fenced' end
if redis.call('HGET', KEYS[2], ARGV[2]) == 'final' then return 'already' end

redis.call('HSET', KEYS[3], 'final', '1')
redis.call('HSET', KEYS[2], ARGV[2], 'final')
for _, state in ipairs(redis.call('HVALS', KEYS[2])) do
    if state ~= 'final' then return 'stored' end
end
redis.call('HSET', KEYS[1], 'status', 'final')
redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[3], '*', 'kind', 'call-final')
redis.call('EXPIRE', KEYS[5], math.max(redis.call('TTL', KEYS[1]), 1))
return 'stored'
