-- Append entries to a tenant's trail of accesses, if its head is still where the writer believes it to be.
-- KEYS 1 head (hash: hash, number, at_ms, kept_s, trimmed)  2 entries (stream)
-- ARGV 1 believed hash of the head ('' is never right: it asks where the head stands)  2 new hash  3 new number
--      4 at_ms of the new entries  5 kept_s  6 how many old entries go at most  7… the new entries' texts
-- Returns 'noted' or 'moved'; and of the head as it is now: hash, number, at_ms; and what time it is, ms since 1970
local START = string.rep('0', 64)
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local function number(value) return string.format('%.0f', value) end

local head = redis.call('HMGET', KEYS[1], 'hash', 'number', 'at_ms', 'kept_s')
if (head[1] or START) ~= ARGV[1] then
    return {'moved', head[1] or START, head[2] or '0', head[3] or '0', number(now_ms)}
end

-- Entries whose time is over go with their key: the trail goes on behind them. Where they went otherwise, verification sees it.
local over = head[1] and tonumber(head[3]) + tonumber(head[4]) * 1000 <= now_ms and redis.call('EXISTS', KEYS[2]) == 0
for index = 7, #ARGV do redis.call('XADD', KEYS[2], ARGV[4] .. '-*', 'entry', ARGV[index]) end
redis.call('HSET', KEYS[1], 'hash', ARGV[2], 'number', ARGV[3], 'at_ms', ARGV[4], 'kept_s', ARGV[5])
if over then redis.call('HSET', KEYS[1], 'trimmed', head[2]) end

local old = redis.call('XRANGE', KEYS[2], '-', number(math.max(now_ms - ARGV[5] * 1000 - 1, 0)), 'COUNT', ARGV[6] + 1)
if #old > 0 then
    local last = old[math.min(#old, tonumber(ARGV[6]))][1]
    local ms, seq = string.match(last, '^(%d+)-(%d+)$')
    redis.call('HINCRBY', KEYS[1], 'trimmed', redis.call('XTRIM', KEYS[2], 'MINID', ms .. '-' .. number(seq + 1)))
end
redis.call('EXPIRE', KEYS[2], ARGV[5])
redis.call('EXPIRE', KEYS[1], ARGV[5] + 86400)  -- the head outlives what it vouches for
return {'noted', ARGV[2], ARGV[3], ARGV[4], number(now_ms)}
