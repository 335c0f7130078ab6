-- Note a dead letter of a call, once.
-- KEYS 1 letters  2 letter counts  3 its stream's checkpoint  4 tombstone
-- ARGV 1 offset  2 its name in the set  3 outcome  4 how many are remembered by place  5 ttl_s
--      6 owner of the stream ('' for a record of none)
-- Returns 'noted', 'known', 'deleted' or 'fenced'
if redis.call('EXISTS', KEYS[4]) == 1 then return 'deleted' end
if ARGV[6] ~= '' and redis.call('HGET', KEYS[3], 'owner') ~= ARGV[6] then return 'fenced' end
local kept = redis.call('ZCARD', KEYS[1])
if kept >= tonumber(ARGV[4]) then
    local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    if tonumber(ARGV[1]) < tonumber(oldest[2]) then return 'known' end  -- noted long ago and forgotten since
end
local new = redis.call('ZADD', KEYS[1], 'NX', ARGV[1], ARGV[2])
if new == 1 then
    redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
    redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[4]))
end
for key = 1, 2 do redis.call('EXPIRE', KEYS[key], ARGV[5]) end
return new == 1 and 'noted' or 'known'
