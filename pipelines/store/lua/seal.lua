-- Keep a call's seal, or find the one that it has.
-- KEYS 1 seals  2 tombstone
-- ARGV 1 id  2 key, hex  3 ttl_s  4 whether it is kept although the call has another ('1'), or that one is taken ('0')
-- Returns {'deleted'} or {id, key}
if redis.call('EXISTS', KEYS[2]) == 1 then return {'deleted'} end
local id, key = ARGV[1], ARGV[2]
local has = redis.call('HGETALL', KEYS[1])
if ARGV[4] == '0' and has[1] then
    id, key = has[1], has[2]
else
    redis.call('HSET', KEYS[1], id, key)
end
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return {id, key}
