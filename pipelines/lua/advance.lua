-- Store a result and move its track's cut, or refuse both (DESIGN §4.2).
-- KEYS 1 call  2 streams  3 checkpoint  4 tombstone  5 results  6 order  7 digests  8 events
-- ARGV 1 owner  2 participant  3 believed cut  4 new cut  5 utterances  6 resume offset  7 resume seq  8 resume sample
--      9 ttl_s  10 events_max  11 member ('' for no result)  12 result  13 digest  14 end_ms
-- Returns 'stored', 'already', 'fenced' or 'deleted'
if redis.call('EXISTS', KEYS[4]) == 1 then return 'deleted' end
if redis.call('HGET', KEYS[3], 'owner') ~= ARGV[1] then return 'fenced' end
local cut = redis.call('HGET', KEYS[3], 'cut:' .. ARGV[2])
if cut and cut ~= ARGV[3] then
    -- The same owner again after a lost reply finds its own step done.
    return cut == ARGV[4] and 'already' or 'fenced'
end

redis.call('HSET', KEYS[3], 'cut:' .. ARGV[2], ARGV[4], 'utterances:' .. ARGV[2], ARGV[5],
    'resume_at', ARGV[6], 'resume_seq', ARGV[7], 'resume_sample', ARGV[8])
if ARGV[11] ~= '' then
    if redis.call('HSET', KEYS[5], ARGV[11], ARGV[12]) == 1 then
        redis.call('HINCRBY', KEYS[1], 'utterances', 1)
        redis.call('XADD', KEYS[8], 'MAXLEN', '~', ARGV[10], '*', 'kind', 'utterance', 'member', ARGV[11])
    end
    redis.call('ZADD', KEYS[6], 0, ARGV[11])
    redis.call('HSET', KEYS[7], ARGV[11], ARGV[13])
    if tonumber(redis.call('HGET', KEYS[1], 'last_ms') or '0') < tonumber(ARGV[14]) then
        redis.call('HSET', KEYS[1], 'last_ms', ARGV[14])
    end
end
for _, key in ipairs({1, 2, 3, 5, 6, 7, 8}) do redis.call('EXPIRE', KEYS[key], ARGV[9]) end
return 'stored'
