"""What Redis does for live boards, each in one step that nothing comes between.

`fanfare:live:<board>` is a hash: `epoch` and `version`; `window`, the identity of the window and its numbering, and
`label`; `head`, the change of the ranking that it is of; `rows`, the top as JSON, and `total`, both as of the version;
`due`, when it may be told of again. Times are in milliseconds, by Redis's clock.
"""

_NOW = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- The clock may be set back: nothing waits longer than a tick.
local function wait(due, tick)
  local left = tonumber(due or 0) - now
  return left > 0 and left <= tick and left or 0
end
"""

# The boards' keys; a tick -> for each {window, head, in how many milliseconds it may be told of}.
LOOK = (
    _NOW
    + """
local found = {}
for i, key in ipairs(KEYS) do
  local had = redis.call('HMGET', key, 'window', 'head', 'due')
  found[i] = {had[1] or '-', had[2] or '0', wait(had[3], tonumber(ARGV[1]))}
end
return found
"""
)

# A board's key; window, label, head, total, rows, an epoch for a new numbering, a tick, for how long a head that is
# ahead is believed, and for how long the board is kept -> nothing, where there is nothing to tell; else {epoch,
# version, rows before, or nil where all begins anew}.
ADVANCE = (
    _NOW
    + """
local key, window, head, rows = KEYS[1], ARGV[1], tonumber(ARGV[3]), ARGV[5]
local tick, ahead = tonumber(ARGV[7]), tonumber(ARGV[8])
local had = redis.call('HMGET', key, 'epoch', 'version', 'window', 'head', 'due', 'rows')
local epoch, version, before = had[1], tonumber(had[2] or 0) + 1, had[6]
if had[3] ~= window or head < tonumber(had[4]) and now - tonumber(had[5]) >= ahead then
  epoch, version, before = ARGV[6], 1, false
elseif head < tonumber(had[4]) or wait(had[5], tick) > 0 then
  return {}
end
redis.call('HSET', key, 'window', window, 'head', ARGV[3], 'due', now + tick)
redis.call('PEXPIRE', key, ARGV[9])
if before == rows then return {} end
redis.call('HSET', key, 'epoch', epoch, 'version', version, 'label', ARGV[2], 'total', ARGV[4], 'rows', rows)
return {epoch, version, before}
"""
)

# The boards' keys -> for each {epoch, version}.
POSITIONS = """
local found = {}
for i, key in ipairs(KEYS) do found[i] = redis.call('HMGET', key, 'epoch', 'version') end
return found
"""

# A board's key -> {epoch, version, label, total, rows}.
SNAPSHOT = "return redis.call('HMGET', KEYS[1], 'epoch', 'version', 'label', 'total', 'rows')"
