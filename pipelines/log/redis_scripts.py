"""The Lua scripts of the embedded log; `redis_streams.py` says what the keys hold."""

_NOW_MS = """
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS log, state, producer; ARGV sequence, producer_ttl_s, log_max_bytes, waits, key, value, headers, retention_ms
APPEND = (
    _NOW_MS
    + """
if tonumber(redis.call('GET', KEYS[3]) or '-1') >= tonumber(ARGV[1]) then return 1 end
local bytes = tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0')
local floor = tonumber(redis.call('HGET', KEYS[2], 'floor') or '0')
local room = tonumber(ARGV[3]) - #ARGV[6]
local done = tonumber(redis.call('HGET', KEYS[2], 'done') or '0')
local oldest_ms = tonumber(redis.call('HGET', KEYS[2], 'oldest_ms') or '0')
local function drop(oldest)
    redis.call('XDEL', KEYS[1], oldest[1][1])
    floor = oldest[2] and tonumber(oldest[2][2][10]) or bytes
    oldest_ms = oldest[2] and tonumber(oldest[2][2][8]) or now_ms
    redis.call('HSET', KEYS[2], 'floor', string.format('%.0f', floor), 'oldest_ms', string.format('%.0f', oldest_ms))
end
if redis.call('EXISTS', KEYS[1]) == 0 then floor, oldest_ms = bytes, now_ms end  -- all of it was too old
for _ = 1, 100 do  -- the rest with the next record: nothing else is served meanwhile
    if bytes <= floor or now_ms - oldest_ms <= tonumber(ARGV[8]) then break end
    local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 2)
    oldest_ms = tonumber(oldest[1][2][8])
    if now_ms - oldest_ms <= tonumber(ARGV[8]) then break end
    drop(oldest)
end
while bytes > floor and bytes - floor > room do
    local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 2)
    if ARGV[4] == '1' and tonumber(string.match(oldest[1][1], '^%d+')) > done then return 0 end
    drop(oldest)
end
local offset = tonumber(redis.call('HGET', KEYS[2], 'next') or '0')
redis.call('XADD', KEYS[1], string.format('%.0f-0', offset + 1), 'key', ARGV[5], 'value', ARGV[6],
    'headers', ARGV[7], 'appended_ms', string.format('%.0f', now_ms), 'before', string.format('%.0f', bytes))
redis.call('HSET', KEYS[2], 'next', string.format('%.0f', offset + 1), 'bytes',
    string.format('%.0f', bytes + #ARGV[6]), 'floor', string.format('%.0f', floor), 'oldest_ms',
    string.format('%.0f', oldest_ms))
redis.call('PEXPIRE', KEYS[1], ARGV[8])
redis.call('SET', KEYS[3], ARGV[1], 'EX', ARGV[2])
return 1
"""
)

# KEYS group; ARGV reader, lease_ms. Returns {1 held on, 2 newly won, 0 another reads; committed, '' where nothing is}
HOLD = (
    _NOW_MS
    + """
local reader = redis.call('HGET', KEYS[1], 'reader')
local until_ms = tonumber(redis.call('HGET', KEYS[1], 'reader_until_ms') or '0')
if reader ~= ARGV[1] and until_ms > now_ms then return {0, ''} end
redis.call('HSET', KEYS[1], 'reader', ARGV[1], 'reader_until_ms', string.format('%.0f', now_ms + ARGV[2]))
return {reader == ARGV[1] and 1 or 2, redis.call('HGET', KEYS[1], 'committed') or ''}
"""
)

# KEYS group, state; ARGV reader, offset, whether records below it may make room for new ones.
COMMIT = """
if redis.call('HGET', KEYS[1], 'reader') ~= ARGV[1] then return 0 end
local committed = tonumber(redis.call('HGET', KEYS[1], 'committed') or '-1')
local offset = math.min(tonumber(ARGV[2]), tonumber(redis.call('HGET', KEYS[2], 'next') or '0'))
if offset <= committed then return 1 end
redis.call('HSET', KEYS[1], 'committed', string.format('%.0f', offset))
if ARGV[3] == '1' then redis.call('HSET', KEYS[2], 'done', string.format('%.0f', offset)) end
return 1
"""

# KEYS group; ARGV reader. The lease ends now; the name goes, so that nobody holds on under it.
LEAVE = """
if redis.call('HGET', KEYS[1], 'reader') == ARGV[1] then redis.call('HDEL', KEYS[1], 'reader', 'reader_until_ms') end
return 1
"""
