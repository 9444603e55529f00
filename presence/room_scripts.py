"""What Redis does for rooms, each in one step: Lua.

    room:<name>            HASH  user -> "<connections> <joined at> <info given at> <info>", times in milliseconds
    room-order:<name>      ZSET  its users in the order of their ids, for pages
    room-veiled:<name>     HASH  likewise, of those in it whom nobody is to see
    room-state:<name>      HASH  epoch, version; counts: 1 while only the count is told; told: when it was last
    room-node:<boot>       HASH  "<connection>\\n<room>" -> user: what a process has in rooms
    room-nodes             SET   the processes that have something there
    room-user:<user>       SET   the rooms that a user is in
    rooms-shown            HASH  who is in rooms and may be seen -> since when, in milliseconds
    rooms-unsure           HASH  who is in rooms, and the database is to be asked whether they hide -> a token
    rooms-due              SET   the rooms whose count has changed since it was told

All are under `fanfare:presence:`. A room's version grows by one with each event about it; the epoch names the
counting. The scripts that change rooms begin with CLOCK: their first argument is the length of a lease.

Who is not in `rooms-shown` is veiled, as everybody is of whom an emptied Redis hears anew: only the database's word
shows them (room_veils.py). It counts if nobody has asked for a newer one meanwhile; that is what tokens are for.
"""

from presence.scripts import CLOCK

MEMBERS_MAX = 100  # Up to here members are told by name; above, only how many they are,
COUNT_MS = 1000  # so often at most.
EMPTY_SECONDS = 3600  # For which the version of an empty room is kept.

# What has changed in rooms is told at the end of each script: `was` keeps what each member was before.
_CHANGING = (
    CLOCK
    + f"local MOST, PAUSE, EMPTY = {MEMBERS_MAX}, {COUNT_MS}, {EMPTY_SECONDS}"
    + """
local ms = math.floor(now * 1000)
local was, rooms, told = {}, {}, {}

local function has_lease(boot)
  local ends = tonumber(redis.call('ZSCORE', P .. 'nodes', boot) or '0')
  return ends > now and ends <= now + lease + 1
end

local function parts(member)
  return string.match(member, '^(%d+) (%d+) (%d+) (.*)$')
end

local function touch(room)
  if not was[room] then
    was[room] = {}
    rooms[#rooms + 1] = room
  end
end

-- Where a user's stay is kept, and what others see of it before it is changed.
local function place_of(room, user)
  touch(room)
  if was[room][user] == nil then was[room][user] = redis.call('HGET', P .. 'room:' .. room, user) end
  local shown = redis.call('HEXISTS', P .. 'rooms-shown', user) == 1
  return P .. (shown and 'room:' or 'room-veiled:') .. room, shown
end

local function put(room, user, value)
  local place, shown = place_of(room, user)
  redis.call('HSET', place, user, value)
  if shown then redis.call('ZADD', P .. 'room-order:' .. room, 0, user) end
end

local function take(room, user)
  local place = place_of(room, user)
  local found = redis.call('HGET', place, user)
  redis.call('HDEL', place, user)
  redis.call('ZREM', P .. 'room-order:' .. room, user)
  return found
end

-- From now on others see a user, since a time, or do not: false.
local function show(user, since)
  local found = redis.call('SMEMBERS', P .. 'room-user:' .. user)
  local stays = {}
  for i, room in ipairs(found) do stays[i] = take(room, user) end
  if since then
    redis.call('HSET', P .. 'rooms-shown', user, since)
  else
    redis.call('HDEL', P .. 'rooms-shown', user)
  end
  for i, room in ipairs(found) do
    if stays[i] then put(room, user, stays[i]) end
  end
end

local function join(boot, room, connection, user, joined_at, said_at, info)
  local found = take(room, user)
  local count, since, last, said = 0, joined_at, said_at, info
  if found then
    count, since, last, said = parts(found)
    if tonumber(joined_at) < tonumber(since) then since = joined_at end
    if info ~= 'null' and (said == 'null' or tonumber(said_at) >= tonumber(last)) then last, said = said_at, info end
  end
  if redis.call('HSET', P .. 'room-node:' .. boot, connection .. '\\n' .. room, user) == 1 then count = count + 1 end
  redis.call('SADD', P .. 'room-nodes', boot)
  redis.call('SADD', P .. 'room-user:' .. user, room)
  put(room, user, string.format('%d %s %s ', count, since, last) .. said)
end

local function leave(boot, room, connection)
  local place = connection .. '\\n' .. room
  local user = redis.call('HGET', P .. 'room-node:' .. boot, place)
  if not user then return end
  redis.call('HDEL', P .. 'room-node:' .. boot, place)
  local found = take(room, user)
  if not found then return end
  local count, since, last, said = parts(found)
  if tonumber(count) > 1 then
    put(room, user, string.format('%d %s %s ', count - 1, since, last) .. said)
    return
  end
  redis.call('SREM', P .. 'room-user:' .. user, room)
  if redis.call('EXISTS', P .. 'room-user:' .. user) == 0 then
    redis.call('HDEL', P .. 'rooms-shown', user)
    redis.call('HDEL', P .. 'rooms-unsure', user)
  end
end

local function difference(room)
  local joined, left = {}, {}
  for user, before in pairs(was[room] or {}) do
    local after = redis.call('HGET', P .. 'room:' .. room, user)
    if after then
      local _, _, _, said = parts(after)
      local said_before = nil
      if before then _, _, _, said_before = parts(before) end
      if said ~= said_before then
        joined[#joined + 1] = user
        joined[#joined + 1] = said
      end
    elseif before then
      left[#left + 1] = user
    end
  end
  return joined, left
end

-- Tells what has changed in a room; `again`: also when nothing has, for what was told before may be lost.
local function tell(room, fresh, again)
  local joined, left = difference(room)
  local changed = #joined + #left > 0
  local state = P .. 'room-state:' .. room
  local epoch, version, counts, at = unpack(redis.call('HMGET', state, 'epoch', 'version', 'counts', 'told'))
  local due = redis.call('SREM', P .. 'rooms-due', room) == 1
  if not (changed or due) and not (again and epoch) then return end
  local size = redis.call('HLEN', P .. 'room:' .. room)
  counts = counts == '1'
  if counts and (changed or due) and ms >= tonumber(at) and ms - at < PAUSE then
    redis.call('SADD', P .. 'rooms-due', room)
    return
  end
  if not epoch then
    epoch, version = fresh, 0
    redis.call('HSET', state, 'epoch', epoch)
  end
  if changed or due then version = redis.call('HINCRBY', state, 'version', 1) end
  local one = {room, epoch, tonumber(version), size}
  if size > MOST then
    redis.call('HSET', state, 'counts', 1, 'told', string.format('%.0f', ms))
    one[5] = 'count'
  elseif counts or not changed then
    redis.call('HDEL', state, 'counts', 'told')
    one[5], one[6] = 'snapshot', redis.call('HGETALL', P .. 'room:' .. room)
  else
    one[5], one[6], one[7] = 'changes', joined, left
  end
  if size == 0 then redis.call('EXPIRE', state, EMPTY) else redis.call('PERSIST', state) end
  told[#told + 1] = one
end

local function tell_all(fresh, again)
  for _, room in ipairs(rooms) do tell(room, fresh, again) end
  return {told, redis.call('SCARD', P .. 'rooms-due')}
end
"""
)

# boot, fresh epoch and token, again, (connection, room, user, joined at, said at, info)…, with user '' for one who
# leaves -> what is to be told, how many counts are due, and users about whom the database is to be asked, each with a
# token; nil for a process without a lease
CHANGE = (
    _CHANGING
    + """
local boot, fresh, again = ARGV[2], ARGV[3], ARGV[4] == '1'
if not has_lease(boot) then return nil end
local unsure = {}
for i = 5, #ARGV, 6 do
  local connection, room, user = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if user == '' then
    leave(boot, room, connection)
  else
    -- After a failure everybody is asked about anew: what Redis knows may be old.
    if again or redis.call('EXISTS', P .. 'room-user:' .. user) == 0 then
      redis.call('HSET', P .. 'rooms-unsure', user, fresh)
    end
    join(boot, room, connection, user, ARGV[i + 3], ARGV[i + 4], ARGV[i + 5])
    unsure[user] = redis.call('HGET', P .. 'rooms-unsure', user)
  end
  if again then touch(room) end
end
local found, asked = tell_all(fresh, again), {}
for user, token in pairs(unsure) do
  if token then
    asked[#asked + 1] = user
    asked[#asked + 1] = token
  end
end
found[3] = asked
return found
"""
)

# fresh epoch and token, user -> likewise: the user is veiled until the database was asked
VEIL = (
    _CHANGING
    + """
local fresh, user = ARGV[2], ARGV[3]
if redis.call('EXISTS', P .. 'room-user:' .. user) == 0 then return {{}, 0, {}} end
show(user, false)
redis.call('HSET', P .. 'rooms-unsure', user, fresh)
local found = tell_all(fresh, false)
found[3] = {user, fresh}
return found
"""
)

# fresh epoch, (user, token, since when others may see them, or '')… -> what is to be told, and how many counts are due
UNVEIL = (
    _CHANGING
    + """
for i = 3, #ARGV, 3 do
  local user, since = ARGV[i], ARGV[i + 2]
  if redis.call('HGET', P .. 'rooms-unsure', user) == ARGV[i + 1] then
    redis.call('HDEL', P .. 'rooms-unsure', user)
    show(user, since ~= '' and since)
  end
end
return tell_all(ARGV[2], false)
"""
)

# how many -> some of the users about whom the database is to be asked, each with a token
UNSURE = "return redis.call('HRANDFIELD', 'fanfare:presence:rooms-unsure', ARGV[1], 'WITHVALUES')"

# fresh epoch, how many connections of processes without a lease are taken out, or so -> likewise, and whether there
# are more of them. Counts that are due are told, too.
SWEEP = (
    _CHANGING
    + """
local fresh, most, more = ARGV[2], tonumber(ARGV[3]), 0
for _, boot in ipairs(whole and redis.call('SMEMBERS', P .. 'room-nodes') or {}) do
  if most > 0 and not has_lease(boot) then
    local places = redis.call('HRANDFIELD', P .. 'room-node:' .. boot, most, 'WITHVALUES')
    for i = 1, #places, 2 do
      local connection, room = string.match(places[i], '^([^\\n]*)\\n(.*)$')
      leave(boot, room, connection)
    end
    most = most - #places / 2
    if redis.call('EXISTS', P .. 'room-node:' .. boot) == 0 then redis.call('SREM', P .. 'room-nodes', boot) end
  end
  if not has_lease(boot) and redis.call('SISMEMBER', P .. 'room-nodes', boot) == 1 then more = 1 end
end
for _, room in ipairs(redis.call('SRANDMEMBER', P .. 'rooms-due', 100)) do
  touch(room)
end
local found = tell_all(fresh, false)
found[3] = more
return found
"""
)

# boot -> how many connections Redis knows in rooms, one in two rooms twice
HELD = "return redis.call('HLEN', 'fanfare:presence:room-node:' .. ARGV[1])"

# rooms… -> epoch and version of each
POSITIONS = """
local found = {}
for i, room in ipairs(ARGV) do
  found[i] = redis.call('HMGET', 'fanfare:presence:room-state:' .. room, 'epoch', 'version')
end
return found
"""

# room -> epoch, version, count, and the members, if there are no more than ARGV[2]
SNAPSHOT = """
local P, room = 'fanfare:presence:', ARGV[1]
local epoch, version = unpack(redis.call('HMGET', P .. 'room-state:' .. room, 'epoch', 'version'))
local size = redis.call('HLEN', P .. 'room:' .. room)
local members = size <= tonumber(ARGV[2]) and redis.call('HGETALL', P .. 'room:' .. room)
return {epoch, version, size, members}
"""

# room, after whom, how many -> count, and users in the order of their ids, each with what is known and since when
# others may see them
PAGE = """
local P, room, after, limit = 'fanfare:presence:', ARGV[1], ARGV[2], ARGV[3]
local users = redis.call('ZRANGE', P .. 'room-order:' .. room, after, '+', 'BYLEX', 'LIMIT', 0, limit)
local found = {}
for i, user in ipairs(users) do
  found[i] = {user, redis.call('HGET', P .. 'room:' .. room, user), redis.call('HGET', P .. 'rooms-shown', user)}
end
return {redis.call('HLEN', P .. 'room:' .. room), found}
"""
