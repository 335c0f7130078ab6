-- Take ownership of a stream and read its checkpoint.
-- KEYS 1 call  2 streams  3 checkpoint  4 tombstone  5 events  6 letters
-- ARGV 1 owner  2 stream  3 started_ms (0 unknown)  4 open_ttl_s  5 checkpoint_ttl_s  6 events_max  7 partition
--      8 offset of the fragment that opens it ('' unknown)
-- Returns {'deleted'}, {'other partition'}, {'settled'} or {'open', started_ms, {letters…}, {checkpoint's fields and values…}}
if redis.call('EXISTS', KEYS[4]) == 1 then return {'deleted'} end
local partition = redis.call('HGET', KEYS[3], 'partition')
if partition and partition ~= ARGV[7] then return {'other partition'} end

-- A closed stream is not brought to life by what is only read again.
local counted_to = tonumber(redis.call('HGET', KEYS[3], 'counted_to') or '0')
if redis.call('HGET', KEYS[2], ARGV[2]) == 'closed' and tonumber(ARGV[8] or '') and tonumber(ARGV[8]) < counted_to then
    return {'settled'}
end

if not redis.call('HGET', KEYS[3], 'final') then
    local started_ms = ARGV[3]
    if started_ms == '0' then
        local now = redis.call('TIME')
        started_ms = string.format('%.0f', now[1] * 1000 + math.floor(now[2] / 1000))
    end
    redis.call('HSETNX', KEYS[1], 'started_ms', started_ms)
    if redis.call('HGET', KEYS[1], 'status') == 'waiting' then redis.call('PERSIST', KEYS[1]) end  -- it gets the ttl of an open one
    redis.call('HSET', KEYS[3], 'owner', ARGV[1], 'partition', ARGV[7])
    set_state(KEYS[1], KEYS[2], KEYS[5], ARGV[6], ARGV[2], 'live')
    for key, ttl_s in ipairs({ARGV[4], ARGV[5], ARGV[5]}) do
        if redis.call('TTL', KEYS[key]) == -1 then redis.call('EXPIRE', KEYS[key], ttl_s) end
    end
end
local letters = redis.call('ZRANGEBYSCORE', KEYS[6], redis.call('HGET', KEYS[3], 'resume_at') or '-inf', '+inf')
return {'open', redis.call('HGET', KEYS[1], 'started_ms') or '0', letters, redis.call('HGETALL', KEYS[3])}
