-- Note that a worker's work on a record begins, and forget those of its records whose work has ended.
-- KEYS 1 hash: offset -> how many workers have begun, and the last of them
-- ARGV 1 offset ('' none)  2 ttl_s  3 worker  4… offsets whose work has ended
-- Returns how many workers have begun, this one included: one that begins again, or after a lost reply, counts once
for index = 4, #ARGV do
    -- Whoever has begun since then has not ended.
    if string.match(redis.call('HGET', KEYS[1], ARGV[index]) or '', '^%d+ (.*)$') == ARGV[3] then
        redis.call('HDEL', KEYS[1], ARGV[index])
    end
end
if ARGV[1] == '' then return 0 end
local begun, last = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '0 ', '^(%d+) (.*)$')
if last == ARGV[3] then return tonumber(begun) end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %s', begun + 1, ARGV[3]))
redis.call('EXPIRE', KEYS[1], ARGV[2])
return tonumber(begun) + 1
