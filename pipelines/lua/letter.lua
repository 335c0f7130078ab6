-- Note a dead letter of a call, once.
-- KEYS 1 letters  2 letter counts
-- ARGV 1 offset  2 its name in the set  3 outcome  4 how many are remembered by place  5 ttl_s
local kept = redis.call('ZCARD', KEYS[1])
if kept >= tonumber(ARGV[4]) then
    local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    if tonumber(ARGV[1]) < tonumber(oldest[2]) then return 0 end  -- noted long ago and forgotten since
end
local new = redis.call('ZADD', KEYS[1], 'NX', ARGV[1], ARGV[2])
if new == 1 then
    redis.call('HINCRBY', KEYS[2], ARGV[3], 1)
    redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[4]))
end
for key = 1, 2 do redis.call('EXPIRE', KEYS[key], ARGV[5]) end
return new
