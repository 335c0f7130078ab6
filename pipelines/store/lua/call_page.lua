-- Calls of the index by their start, the latest first, of one start by id; however many started in one millisecond.
-- KEYS 1 sorted set of call ids by started_ms
-- ARGV 1 started_ms of the call listed last ('' none)  2 its id  3 until (exclusive; '+inf')  4 how many
-- Returns ids, each with its started_ms
local function count(from, to) return redis.call('ZCOUNT', KEYS[1], from, to) end
local first = ARGV[3] == '+inf' and 0 or count(ARGV[3], '+inf')
if ARGV[1] ~= '' then
    -- The place of that call, whether or not it is still there, among those that started when it did.
    local low = count('(' .. ARGV[1], '+inf')
    local high = low + count(ARGV[1], ARGV[1])
    while low < high do
        local middle = math.floor((low + high) / 2)
        if redis.call('ZREVRANGE', KEYS[1], middle, middle)[1] >= ARGV[2] then low = middle + 1 else high = middle end
    end
    first = math.max(first, low)
end
return redis.call('ZREVRANGE', KEYS[1], first, first + ARGV[4] - 1, 'WITHSCORES')
