-- Take ownership of a stream and read its checkpoint.
-- KEYS 1 call  2 streams  3 checkpoint  4 tombstone
-- ARGV 1 owner  2 tenant  3 stream  4 started_ms (0 unknown)  5 open_ttl_s
-- Returns {'deleted'} or {'other tenant'} or {'open', started_ms, checkpoint's fields and values…}
if redis.call('EXISTS', KEYS[4]) == 1 then return {'deleted'} end
local tenant = redis.call('HGET', KEYS[1], 'tenant')
if tenant and tenant ~= ARGV[2] then return {'other tenant'} end

local started_ms = ARGV[4]
if started_ms == '0' then
    local now = redis.call('TIME')
    started_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
end
redis.call('HSETNX', KEYS[1], 'tenant', ARGV[2])
redis.call('HSETNX', KEYS[1], 'started_ms', started_ms)
redis.call('HSETNX', KEYS[2], ARGV[3], 'live')
if redis.call('HGET', KEYS[2], ARGV[3]) ~= 'final' then
    redis.call('HSET', KEYS[1], 'status', 'live')
    redis.call('HSET', KEYS[3], 'owner', ARGV[1])
end
for key = 1, 3 do
    if redis.call('TTL', KEYS[key]) == -1 then redis.call('EXPIRE', KEYS[key], ARGV[5]) end
end
local answer = redis.call('HGETALL', KEYS[3])
table.insert(answer, 1, redis.call('HGET', KEYS[1], 'started_ms'))
table.insert(answer, 1, 'open')
return answer
