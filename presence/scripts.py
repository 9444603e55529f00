"""What Redis does for the registry, each in one step that nothing comes between. Times are by its clock alone.

Keys, all under `fanfare:presence:`:

- `nodes`: the boot ids of web processes, by the end of their leases; `node:<boot>`: its connections' ids, and what is
  known of each, as JSON; `flushes`: the number of the last changes that came from it.
- `user:<user>`: the ids of a user's connections, and the node of each; `user:` has those that are nobody's.
- `connections`: all as `<id>:<boot>`, in order, for lists.
- `due`: users by the time to settle them; `reasons`: why the last connection of a user went.
- `heard`: when anybody called last. `since`: since when everybody could call without a break: what Redis knows is
  whole once that is a lease ago, for then everybody who lives has said so.

Every script that begins with CLOCK has the length of a lease as its first argument.
"""

CLOCK = """
local P = 'fanfare:presence:'
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local lease = tonumber(ARGV[1])
local function at(time) return string.format('%.6f', time) end
local heard = tonumber(redis.call('GET', P .. 'heard') or '0')
local since = redis.call('GET', P .. 'since')
if not since or now - heard > lease / 2 or heard > now + 1 then
  since = at(now)
  redis.call('SET', P .. 'since', since)
end
redis.call('SET', P .. 'heard', at(now))
local whole = now - tonumber(since) >= lease
"""

# boot, number, [[id, user, about]], [[id, user, reason, grace]] -> since, the number before, who is to be settled now
CHANGE = (
    CLOCK
    + """
local boot, moved = ARGV[2], {}
local node, before = P .. 'node:' .. boot, redis.call('HGET', P .. 'flushes', boot) or '0'
redis.call('HSET', P .. 'flushes', boot, ARGV[3])
redis.call('ZADD', P .. 'nodes', at(now + lease), boot)
for _, one in ipairs(cjson.decode(ARGV[4])) do
  local id, user, about = one[1], one[2], one[3]
  local home = P .. 'user:' .. user
  if user ~= '' and redis.call('EXISTS', home) == 0 then
    moved[#moved + 1] = user
    redis.call('ZADD', P .. 'due', at(now + 2), user)
    redis.call('HDEL', P .. 'reasons', user)
  end
  redis.call('HSET', node, id, about)
  redis.call('HSET', home, id, boot)
  redis.call('ZADD', P .. 'connections', 0, id .. ':' .. boot)
end
for _, one in ipairs(cjson.decode(ARGV[5])) do
  local id, user, reason, grace = one[1], one[2], one[3], one[4]
  local home = P .. 'user:' .. user
  redis.call('HDEL', node, id)
  redis.call('HDEL', home, id)
  redis.call('ZREM', P .. 'connections', id .. ':' .. boot)
  if user ~= '' and redis.call('EXISTS', home) == 0 then
    redis.call('ZADD', P .. 'due', at(now + grace), user)
    redis.call('HSET', P .. 'reasons', user, reason)
    if grace == 0 then moved[#moved + 1] = user end
  end
end
return {since, before, moved}
"""
)

# boot -> since, the number of its last changes
RENEW = (
    CLOCK
    + """
redis.call('ZADD', P .. 'nodes', at(now + lease), ARGV[2])
return {since, redis.call('HGET', P .. 'flushes', ARGV[2]) or '0'}
"""
)

# boot, seconds: its lease is over, or will be after so long if somebody is still in rooms
RETIRE = """
local P = 'fanfare:presence:'
if tonumber(ARGV[2]) > 0 and redis.call('EXISTS', P .. 'room-node:' .. ARGV[1]) == 1 then
  redis.call('ZADD', P .. 'nodes', 'XX', redis.call('TIME')[1] + ARGV[2], ARGV[1])
elseif redis.call('EXISTS', P .. 'node:' .. ARGV[1]) == 1 then
  redis.call('ZADD', P .. 'nodes', 'XX', 0, ARGV[1])
else
  redis.call('ZREM', P .. 'nodes', ARGV[1])
  redis.call('HDEL', P .. 'flushes', ARGV[1])
end
"""

# seconds beyond which nothing is ever due, users… -> whether it is whole, and of each, as JSON, [connections, when it
# is due, whether that is to come, why the last one went]
CENSUS = (
    CLOCK
    + """
local found = {}
for i = 3, #ARGV do
  local user = ARGV[i]
  local due = redis.call('ZSCORE', P .. 'due', user) or ''
  local ahead = (tonumber(due) or 0) - now
  found[#found + 1] = {
    redis.call('HLEN', P .. 'user:' .. user),
    due,
    ahead > 0 and ahead <= tonumber(ARGV[2]),
    redis.call('HGET', P .. 'reasons', user) or '',
  }
end
return {whole and 1 or 0, cjson.encode(found)}
"""
)

# [[user, when it was due]] that are settled, [user] that cannot be before all is whole
SETTLED = (
    CLOCK
    + """
for _, one in ipairs(cjson.decode(ARGV[2])) do
  local due = redis.call('ZSCORE', P .. 'due', one[1]) or ''
  if due == one[2] then
    redis.call('ZREM', P .. 'due', one[1])
    redis.call('HDEL', P .. 'reasons', one[1])
  end
end
for _, user in ipairs(cjson.decode(ARGV[3])) do
  redis.call('ZADD', P .. 'due', 'GT', at(tonumber(since) + lease), user)
end
"""
)

# how many, seconds beyond which nothing is ever due -> users who are due, how many there are in all
DUE = (
    CLOCK
    + """
local users = redis.call('ZRANGEBYSCORE', P .. 'due', '-inf', at(now), 'LIMIT', 0, ARGV[2])
for _, user in ipairs(redis.call('ZRANGEBYSCORE', P .. 'due', at(now + ARGV[3]), '+inf', 'LIMIT', 0, ARGV[2])) do
  users[#users + 1] = user
end
return {users, redis.call('ZCARD', P .. 'due')}
"""
)

# who sweeps, how many -> '' or the boot id of a node whose lease is over, and [id, about, whether it lives only there]
LOST = (
    CLOCK
    + """
if not whole then return {'', {}} end
local key = P .. 'sweeping'
local other = redis.call('GET', key)
if other and other ~= ARGV[2] then return {'', {}} end
local boot = redis.call('ZRANGEBYSCORE', P .. 'nodes', '-inf', at(now), 'LIMIT', 0, 1)[1]
  or redis.call('ZRANGEBYSCORE', P .. 'nodes', at(now + lease + 1), '+inf', 'LIMIT', 0, 1)[1]
if not boot then
  redis.call('DEL', key)
  return {'', {}}
end
redis.call('SET', key, ARGV[2], 'PX', 5000)
-- Not HSCAN: of a large hash that empties, it finds nothing long before there is nothing.
local found, pairs_ = {}, redis.call('HRANDFIELD', P .. 'node:' .. boot, ARGV[3], 'WITHVALUES')
for i = 1, #pairs_, 2 do
  local user = cjson.decode(pairs_[i + 1])['user']
  local home = P .. 'user:' .. (type(user) == 'string' and user or '')
  found[#found + 1] = {pairs_[i], pairs_[i + 1], redis.call('HGET', home, pairs_[i]) == boot and 1 or 0}
end
return {boot, found}
"""
)

# boot, grace, ids… -> how many connections were taken out
TAKE = (
    CLOCK
    + """
local boot, grace, taken = ARGV[2], tonumber(ARGV[3]), 0
local node, ends = P .. 'node:' .. boot, tonumber(redis.call('ZSCORE', P .. 'nodes', boot) or '0')
if ends > now and ends <= now + lease + 1 then return 0 end
-- However late a sweep comes, the grace begins with the end of the lease.
local due = (ends > 0 and ends <= now and ends or now) + grace
for i = 4, #ARGV do
  local id = ARGV[i]
  local about = redis.call('HGET', node, id)
  if about then
    local user = cjson.decode(about)['user']
    user = type(user) == 'string' and user or ''
    local home = P .. 'user:' .. user
    redis.call('HDEL', node, id)
    redis.call('ZREM', P .. 'connections', id .. ':' .. boot)
    if redis.call('HGET', home, id) == boot then
      taken = taken + 1
      redis.call('HDEL', home, id)
      if user ~= '' and redis.call('EXISTS', home) == 0 then
        redis.call('ZADD', P .. 'due', at(due), user)
        redis.call('HSET', P .. 'reasons', user, 'node_lost')
      end
    end
  end
end
if redis.call('EXISTS', node) == 0 then
  redis.call('ZREM', P .. 'nodes', boot)
  redis.call('HDEL', P .. 'flushes', boot)
end
return taken
"""
)

# -> since, whether it is whole, for which `since` all were looked at, whom the look that goes on has come to
LOOK = (
    CLOCK
    + """
local look = redis.call('HMGET', P .. 'look', 'seen', 'since', 'user')
return {since, whole and 1 or 0, look[1] or '', look[2] == since and look[3] or ''}
"""
)

# for which `since` all were looked at, of which the look is that goes on, whom it has come to
LOOKED = "redis.call('HSET', 'fanfare:presence:look', 'seen', ARGV[1], 'since', ARGV[2], 'user', ARGV[3])"

# after which member, how many -> [id, about] in the order of ids
PAGE = """
local P, found = 'fanfare:presence:', {}
for _, member in ipairs(redis.call('ZRANGEBYLEX', P .. 'connections', ARGV[1], '+', 'LIMIT', 0, ARGV[2])) do
  local id, boot = string.match(member, '^(%x+):(.+)$')
  found[#found + 1] = {id, redis.call('HGET', P .. 'node:' .. boot, id) or ''}
end
return found
"""

# user -> [id, about]
OF_USER = """
local P, found = 'fanfare:presence:', {}
local all = redis.call('HGETALL', P .. 'user:' .. ARGV[1])
for i = 1, #all, 2 do
  found[#found + 1] = {all[i], redis.call('HGET', P .. 'node:' .. all[i + 1], all[i]) or ''}
end
return found
"""

# user: nothing is to be settled any more
FORGET = """
local P = 'fanfare:presence:'
redis.call('ZREM', P .. 'due', ARGV[1])
redis.call('HDEL', P .. 'reasons', ARGV[1])
"""

# [user] -> how many connections each has, as JSON: of a thousand numbers, redis-py would take longer than all the rest
COUNTS = """
local found = {}
for i, user in ipairs(cjson.decode(ARGV[1])) do found[i] = redis.call('HLEN', 'fanfare:presence:user:' .. user) end
return '[' .. table.concat(found, ',') .. ']'
"""
