-- Put digests into the trend bucket of a minute, and keep its sums: adding one again changes nothing (docs/architecture.md#nothing-lost-nothing-twice).
-- KEYS 1 hash: utterance id -> digest; SUMS -> the sums of all of them
-- ARGV 1 ttl_s ('' as it is)  2… utterance ids, each with its digest ('' takes it out)
-- Returns the sums as JSON: participant -> {n, score (in 1/10000), p: polarity -> n, e: emotion -> n}; and 'size', how many digests
local SUMS = '#'  -- no utterance id: those have slashes

local function change(counts, name, by)
    if name == '' then return end
    counts[name] = (counts[name] or 0) + by
    if counts[name] == 0 then counts[name] = nil end
end

local function count(sums, digest, by)
    local who, polarity, emotion, score = string.match(digest or '', '^([^|]*)|([^|]*)|([^|]*)|(-?%d+%.?%d*)$')
    if not who then return end  -- not judged, or nothing that can be read
    local part = sums[who] or {n = 0, score = 0, p = {}, e = {}}
    part.n = part.n + by
    part.score = part.score + by * math.floor(tonumber(score) * 10000 + 0.5)
    change(part.p, polarity, by)
    change(part.e, emotion, by)
    sums[who] = part.n > 0 and part or nil
end

local held = redis.call('HLEN', KEYS[1])
local written = redis.call('HGET', KEYS[1], SUMS)
local sums = written and cjson.decode(written)
-- A worker of an earlier version writes digests only.
if not sums or sums.size ~= held - 1 then
    sums = {size = 0}
    local all = redis.call('HGETALL', KEYS[1])
    for index = 1, #all, 2 do
        if all[index] ~= SUMS then
            sums.size = sums.size + 1
            count(sums, all[index + 1], 1)
        end
    end
end
for index = 2, #ARGV, 2 do
    local before = redis.call('HGET', KEYS[1], ARGV[index])
    if before then count(sums, before, -1) else sums.size = sums.size + 1 end
    if ARGV[index + 1] == '' then
        redis.call('HDEL', KEYS[1], ARGV[index])
        sums.size = sums.size - 1
    else
        redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
        count(sums, ARGV[index + 1], 1)
    end
end
local json = cjson.encode(sums)
if sums.size > 0 then
    redis.call('HSET', KEYS[1], SUMS, json)
    if ARGV[1] and ARGV[1] ~= '' then redis.call('EXPIRE', KEYS[1], ARGV[1]) end
else
    redis.call('DEL', KEYS[1])
end
return json
