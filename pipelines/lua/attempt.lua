-- Note that work on a record begins, and forget the records whose work has ended.
-- KEYS 1 hash: offset -> attempts
-- ARGV 1 offset ('' none)  2 ttl_s  3… offsets whose work has ended
-- Returns how often the work has begun, this time included
for index = 3, #ARGV do redis.call('HDEL', KEYS[1], ARGV[index]) end
if ARGV[1] == '' then return 0 end
local attempts = redis.call('HINCRBY', KEYS[1], ARGV[1], 1)
redis.call('EXPIRE', KEYS[1], ARGV[2])
return attempts
