-- Count fragments of a stream that need no cut to move, and set its state. Doing it again changes nothing.
-- KEYS 1 call  2 streams  3 checkpoint  4 tombstone  5 events
-- ARGV 1 owner ('' where nobody owns it: it is final)  2 stream  3 state ('' as it is)  4 events_max  5 counted_to
--      6 first_at  7 heard_to  8… outcomes of fragments below counted_to, and how many of each
-- Returns 'stored', 'fenced' or 'deleted'
if redis.call('EXISTS', KEYS[4]) == 1 then return 'deleted' end
if ARGV[1] ~= '' and redis.call('HGET', KEYS[3], 'owner') ~= ARGV[1] then return 'fenced' end
if ARGV[1] == '' and redis.call('HEXISTS', KEYS[3], 'final') == 0 then return 'fenced' end
count(KEYS[1], KEYS[3], ARGV[5], ARGV[6], ARGV[7], 8)
if ARGV[3] == '' or redis.call('HEXISTS', KEYS[3], 'final') == 1 then return 'stored' end
if redis.call('HGET', KEYS[2], ARGV[2]) == ARGV[3] then return 'stored' end
if ARGV[3] == 'final' then redis.call('HSET', KEYS[3], 'final', '1') end
set_state(KEYS[1], KEYS[2], KEYS[5], ARGV[4], ARGV[2], ARGV[3])
return 'stored'
