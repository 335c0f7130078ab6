-- Calls of the index by their start, the latest first, of one start by id; however many started in one millisecond.
-- KEYS 1 sorted set of call ids by started_ms
-- ARGV 1 started_ms of the call listed last ('' none)  2 its id  3 until (exclusive; '+inf')  4 how many
-- Returns ids, each with its started_ms

-- Lua compares strings as the server's locale does, sorted sets by their bytes.
local function is_before(one, other)
    for at = 1, math.max(#one, #other) do
        local here, there = string.byte(one, at) or -1, string.byte(other, at) or -1
        if here ~= there then return here < there end
    end
    return false
end

local function count(from, to) return redis.call('ZCOUNT', KEYS[1], from, to) end
local first = ARGV[3] == '+inf' and 0 or count(ARGV[3], '+inf')
if ARGV[1] ~= '' then
    -- The place of that call, whether or not it is still there, among those that started when it did.
    local low = count('(' .. ARGV[1], '+inf')
    local high = low + count(ARGV[1], ARGV[1])
    while low < high do
        local middle = math.floor((low + high) / 2)
        if is_before(redis.call('ZREVRANGE', KEYS[1], middle, middle)[1], ARGV[2]) then high = middle else low = middle + 1 end
    end
    first = math.max(first, low)
end
return redis.call('ZREVRANGE', KEYS[1], first, first + ARGV[4] - 1, 'WITHSCORES')
