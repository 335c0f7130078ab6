-- Store a result and move its track's cut, or refuse both (docs/architecture.md#nothing-lost-nothing-twice).
-- KEYS 1 call  2 streams  3 checkpoint  4 tombstone  5 events  6 results  7 order  8 digests  9 kinds  10 unstored
-- ARGV 1 owner  2 participant  3 believed cut  4 new cut  5 utterances  6 resume offset  7 resume seq  8 resume sample
--      9 ttl_s  10 checkpoint_ttl_s  11 events_max  12 member ('' for no result)  13 result  14 digest  15 end_ms
--      16 first_at  17 heard_to  18… outcomes of fragments below the resume offset, and how many of each
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
count(KEYS[1], KEYS[3], ARGV[6], ARGV[16], ARGV[17], 18)
if ARGV[12] ~= '' then
    if redis.call('HSET', KEYS[6], ARGV[12], ARGV[13]) == 1 then
        redis.call('HINCRBY', KEYS[1], 'utterances', 1)
        redis.call('XADD', KEYS[5], 'MAXLEN', '~', ARGV[11], '*', 'kind', 'utterance', 'member', ARGV[12])
    end
    redis.call('ZADD', KEYS[7], 0, ARGV[12])
    redis.call('HSET', KEYS[8], ARGV[12], ARGV[14])
    redis.call('SREM', KEYS[10], ARGV[12])
    -- The lowest and the highest score of each kind of utterance: a listing need not look at every one.
    local kind, score = string.match(ARGV[14], '^(.*)|([^|]*)$')
    local low, high = string.match(redis.call('HGET', KEYS[9], kind) or '', '^(.*),(.*)$')
    if not low or score ~= '' and tonumber(score) < tonumber(low) then low = score end
    if not high or score ~= '' and tonumber(score) > tonumber(high) then high = score end
    redis.call('HSET', KEYS[9], kind, low .. ',' .. high)
    if tonumber(redis.call('HGET', KEYS[1], 'last_ms') or '0') < tonumber(ARGV[15]) then
        redis.call('HSET', KEYS[1], 'last_ms', ARGV[15])
    end
end
for _, key in ipairs({1, 5, 6, 7, 8, 9}) do redis.call('EXPIRE', KEYS[key], ARGV[9]) end
-- Checkpoints outlive the log's fragments: one forgotten earlier would let its call be analysed again.
for key = 2, 3 do redis.call('EXPIRE', KEYS[key], ARGV[10]) end
return 'stored'
