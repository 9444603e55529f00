"""What Redis does for a ranking, each in one step that nothing comes between.

Keys of a window, in this order: `z`, a sorted set whose scores are those of the entries, negative on a board where more
is better; `m`, a hash from names to tags; `i`, a hash with `epoch`, `head` and `size`, which is how many `z` and `m`
have, and `dense` once somebody has asked for dense ranks: 0 if the next rebuild is to care for them, 1 if this index
does; `d`, then, a sorted set of the different results. A member of `z` is a tag and a name, so that the order of bytes
breaks ties: see redis_index.tag.

A bound is a member that no entry has, put in and taken out again: its rank is how many are before it.

Every script that begins with INDEX has the epoch as its first argument, and answers nil when the index is not of it,
or when Redis has lost one of its keys, as when it evicts.
"""

INDEX = """
local Z, M, I, D = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local index, total = redis.call('HMGET', I, 'epoch', 'head', 'size', 'dense'), redis.call('ZCARD', Z)
if index[1] ~= ARGV[1] or tonumber(index[3]) ~= total or redis.call('HLEN', M) ~= total then return false end
local head, dense = index[2], index[4] == '1'
if dense and total > 0 and redis.call('EXISTS', D) == 0 then return false end
local function bound(score, member)
  redis.call('ZADD', Z, score, member)
  local rank = redis.call('ZRANK', Z, member)
  redis.call('ZREM', Z, member)
  return rank
end
local function before(score, sub) return bound(score, sub) end
local function upto(score, sub) return bound(score, sub .. '\\255\\255\\255\\255\\255\\255\\255') end
"""

# Of (name, tag or nothing, score)[], which come as three lists, from ARGV[first] on.
CHANGES = """
local function slice(first, size)
  return unpack(ARGV, first, first + size - 1)
end
local function call(command, key, args)
  if #args > 0 then redis.call(command, key, unpack(args)) end
end
local function result(member)
  return string.sub(member, 1, 8) .. redis.call('ZSCORE', Z, member)
end
local function change(first, old)
  local size = #old
  local gone, here, known, unknown, scores, members = {}, {}, {}, {}, {}, {}
  for k = 1, size do
    local name, tag = ARGV[first + k - 1], ARGV[first + size + k - 1]
    if old[k] then gone[#gone + 1] = old[k] end
    members[k] = tag ~= '' and tag .. name
    if tag ~= '' then
      here[#here + 1] = ARGV[first + 2 * size + k - 1]
      here[#here + 1] = members[k]
      known[#known + 1] = name
      known[#known + 1] = tag
    elseif old[k] then
      unknown[#unknown + 1] = name
    end
  end
  if dense then
    for k, member in ipairs(gone) do scores[k] = result(member) end
  end
  call('ZREM', Z, gone)
  call('ZADD', Z, here)
  call('HDEL', M, unknown)
  call('HSET', M, known)
  if dense then
    for _, pair in ipairs(scores) do
      local sub, score = string.sub(pair, 1, 8), string.sub(pair, 9)
      if before(score, sub) == upto(score, sub) then redis.call('ZREM', D, pair) end
    end
    for k = 2, #here, 2 do redis.call('ZADD', D, here[k - 1], result(here[k])) end
  end
  return members
end
local function members(first, tags)
  local found = {}
  for k, tag in ipairs(tags) do found[k] = tag and tag .. ARGV[first + k - 1] end
  return found
end
local function ranks(members)
  local found = {}
  for k, member in ipairs(members) do found[k] = member and redis.call('ZRANK', Z, member) end
  return found
end
"""

# epoch, the number before the first, the last, whether ranks are wanted, changes -> the head before them, ranks before
# and after, if wanted. Where changes do not follow on the head, nothing happens, and there are no ranks.
APPLY = (
    INDEX
    + CHANGES
    + """
if head ~= ARGV[2] then return {head} end
local first, size = 5, (#ARGV - 4) / 3
local old = members(first, redis.call('HMGET', M, slice(first, size)))
local was = ARGV[4] == '1' and ranks(old)
local new = change(first, old)
redis.call('HSET', I, 'head', ARGV[3], 'size', redis.call('ZCARD', Z))
return {head, was, ARGV[4] == '1' and ranks(new)}
"""
)

# epoch, names -> ranks
RANKS = (
    INDEX
    + CHANGES
    + """
return ranks(members(2, redis.call('HMGET', M, slice(2, #ARGV - 1))))
"""
)

# epoch -> the head
HEAD = INDEX + "return head"

TIES = """
local ties = ARGV[2]
if ties == 'dense' and not dense then
  redis.call('HSET', I, 'dense', '0')
  return false
end
local function rank(score, member)
  local sub = string.sub(member, 1, 8)
  if ties == 'competition' then return before(score, sub) end
  if ties == 'modified' then return upto(score, sub) - 1 end
  if ties == 'dense' then return redis.call('ZRANK', D, sub .. score) end
  return redis.call('ZRANK', Z, member)
end
"""

# epoch, ties, names -> the head, the total, for each name that is ranked: member, score, rank
STANDINGS = (
    INDEX
    + TIES
    + """
local found = {}
for first = 3, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  for k, tag in ipairs(redis.call('HMGET', M, unpack(ARGV, first, last))) do
    if tag then
      local member = tag .. ARGV[first + k - 1]
      local score = redis.call('ZSCORE', Z, member)
      if score then
        found[#found + 1] = member
        found[#found + 1] = score
        found[#found + 1] = rank(score, member)
      end
    end
  end
end
return {head, total, found}
"""
)

# `rows` -> the head, the total, the ordinal rank of the first, the rank of the first or, of `modified` ones, the last;
# member and score of each
ROWS = (
    INDEX
    + TIES
    + """
local function rows(start, stop)
  local found, edge = {}, start
  if start < stop then
    found = redis.call('ZRANGE', Z, start, stop - 1, 'WITHSCORES')
  end
  if #found > 0 and ties ~= 'ordinal' then
    local at = ties == 'modified' and #found or 2
    edge = rank(found[at], found[at - 1])
  end
  return {head, total, start, edge, found}
end
"""
)

# epoch, ties, start, stop -> rows
PAGE = ROWS + "return rows(tonumber(ARGV[3]), tonumber(ARGV[4]))"

# epoch, ties, score, a bound, limit -> rows
AFTER = (
    ROWS
    + """
local start = bound(ARGV[3], ARGV[4])
return rows(start, start + tonumber(ARGV[5]))
"""
)

# epoch, ties, name, size -> rows
AROUND = (
    ROWS
    + """
local tag, size = redis.call('HGET', M, ARGV[3]), tonumber(ARGV[4])
local middle = tag and redis.call('ZRANK', Z, tag .. ARGV[3])
if not middle then return rows(0, 0) end
local start = math.max(math.min(middle - math.floor(size / 2), total - size), 0)
return rows(start, start + size)
"""
)

# epoch, ties, the first score, the last, start, limit -> how many, rows
BETWEEN = (
    ROWS
    + """
local from, size = redis.call('ZCOUNT', Z, '-inf', '(' .. ARGV[3]), redis.call('ZCOUNT', Z, ARGV[3], ARGV[4])
local start = math.min(tonumber(ARGV[5]), size)
return {size, rows(from + start, from + math.min(start + tonumber(ARGV[6]), size))}
"""
)

# epoch: where there is no index, one without entries, as before the first change
OPEN = """
if redis.call('EXISTS', KEYS[3]) == 1 then return end
redis.call('UNLINK', unpack(KEYS))
redis.call('HSET', KEYS[3], 'epoch', ARGV[1], 'head', '0', 'size', '0')
"""

# --- A new index, under keys of its own until it is whole -----------------------------------------

# The lease; its token, milliseconds -> whether it is ours now
TAKE_LEASE = "return redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2])"

# The lease; its token
END_LEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"

# Four new keys, the old `i`; epoch, head, milliseconds
BEGIN = """
redis.call('UNLINK', unpack(KEYS, 1, 4))
redis.call('HSET', KEYS[3], 'epoch', ARGV[1], 'head', ARGV[2], 'size', '0')
if redis.call('HEXISTS', KEYS[5], 'dense') == 1 then redis.call('HSET', KEYS[3], 'dense', '1') end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
"""

# Four new keys, the lease; epoch, its token, milliseconds for it, milliseconds for the keys, changes without numbers
# -> whether the lease is ours
LOAD = (
    INDEX
    + CHANGES
    + """
if redis.call('GET', KEYS[5]) ~= ARGV[2] then return false end
redis.call('PEXPIRE', KEYS[5], ARGV[3])
local old = {}
for k = 1, (#ARGV - 4) / 3 do old[k] = false end
change(5, old)
redis.call('HSET', I, 'size', redis.call('ZCARD', Z))
for k = 1, 4 do redis.call('PEXPIRE', KEYS[k], ARGV[4]) end
return 1
"""
)

# Four new keys, four old ones, the lease; its token -> whether it was ours, and the new index counts
SWAP = """
if redis.call('GET', KEYS[9]) ~= ARGV[1] then return false end
redis.call('DEL', KEYS[9])
for k = 1, 4 do
  redis.call('UNLINK', KEYS[k + 4])
  if redis.call('EXISTS', KEYS[k]) == 1 then
    redis.call('PERSIST', KEYS[k])
    redis.call('RENAME', KEYS[k], KEYS[k + 4])
  end
end
return 1
"""

# Keys
FORGET = "redis.call('UNLINK', unpack(KEYS))"

# --- The set of windows whose indexes are missed ---------------------------------------------------

WANT = "redis.call('SADD', KEYS[1], ARGV[1])"
WANTED = "return redis.call('SRANDMEMBER', KEYS[1], ARGV[1])"
DONE = "redis.call('SREM', KEYS[1], ARGV[1])"
