-- Make a call known of which all is in the log and that no worker has opened yet. Doing it again changes nothing.
-- KEYS 1 call  2 tombstone
-- ARGV 1 ttl_s
-- Returns started_ms; '' where the call is known already; 'deleted'
if redis.call('EXISTS', KEYS[2]) == 1 then return 'deleted' end
if redis.call('EXISTS', KEYS[1]) == 1 then return '' end
local now = redis.call('TIME')
local started_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
redis.call('HSET', KEYS[1], 'started_ms', started_ms, 'status', 'waiting')
redis.call('EXPIRE', KEYS[1], ARGV[1])
return started_ms
