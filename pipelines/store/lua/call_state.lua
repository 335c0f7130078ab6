-- Shared by the scripts that change a stream's state or count its fragments.

-- A call is as open as the most open of its streams.
local OPENNESS = {final = 0, closed = 1, stalled = 2, live = 3}
local EVENT = {final = 'call-final', closed = 'call-final', stalled = 'call-stalled', live = 'call-live'}

local function set_state(call, streams, events, events_max, stream, state)
    redis.call('HSET', streams, stream, state)
    if redis.call('EXISTS', call) == 0 then return end  -- its results have expired
    local status = 'final'
    for _, other in ipairs(redis.call('HVALS', streams)) do
        if OPENNESS[other] > OPENNESS[status] then status = other end
    end
    local before = redis.call('HGET', call, 'status')
    if before == status then return end
    redis.call('HSET', call, 'status', status)
    if before and before ~= 'waiting' then
        redis.call('XADD', events, 'MAXLEN', '~', events_max, '*', 'kind', EVENT[status])
        redis.call('EXPIRE', events, math.max(redis.call('TTL', call), 1))
    end
end

-- Fragments below `counted_to` are counted once, whoever counts them; ARGV from `first` on holds outcomes and how many.
-- The media of those that were heard reach to `heard_to`, ms from the start of the call.
local function count(call, checkpoint, counted_to, first_at, heard_to, first)
    if redis.call('EXISTS', call) == 1 and tonumber(heard_to) > tonumber(redis.call('HGET', call, 'length_ms') or '0') then
        redis.call('HSET', call, 'length_ms', heard_to)
    end
    if tonumber(counted_to) <= tonumber(redis.call('HGET', checkpoint, 'counted_to') or '0') then return end
    if first_at ~= '' then redis.call('HSETNX', checkpoint, 'first_at', first_at) end
    redis.call('HSET', checkpoint, 'counted_to', counted_to)
    for index = first, #ARGV, 2 do redis.call('HINCRBY', checkpoint, 'n:' .. ARGV[index], ARGV[index + 1]) end
end

