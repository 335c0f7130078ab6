-- Note whose call it is, unless it is deleted.
-- KEYS 1 tombstone  2 customers
-- ARGV 1 keyed hash of the customer's reference  2 kept_s
-- Returns 'noted' or 'deleted'
if redis.call('EXISTS', KEYS[1]) == 1 then return 'deleted' end
redis.call('SADD', KEYS[2], ARGV[1])
if redis.call('TTL', KEYS[2]) < tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[2], ARGV[2]) end
return 'noted'
