"""Events that are not stored, for sessions that poll: kept for a minute, for they come between two polls, too.

Redis keeps them, of topics for which somebody has polled in the last minute or so. They are handed out at most once,
and need no acknowledgement. Keys, all under `fanfare:sessions:`:

- `polling`: there as long as anybody polls; `wanted:<topic>`: as long as somebody does for this topic.
- `seq`: the number of the last event kept; `topic:<topic>`: a topic's events by their numbers.
- `at:<session>`: up to which number a session was handed them.
- `dispatching`: there as long as sessions have queues outside; `owed`: events of all topics, for these.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from realtime.frames import Event
from realtime.redis_scripts import RedisDown, run

logger = logging.getLogger(__name__)

KEPT_SECONDS = 60
KEPT_EVENTS = 100  # Of a topic.
OWED_EVENTS = 10_000  # Of all topics.
WANTED_SECONDS = 90  # After a poll.
LOOK_SECONDS = 1.0  # Where nobody polls, a process looks so often whether somebody does.
KINDS = ("user", "account", "session", "all")

# how long, how many of a topic, how many for queues, then topics and events by turns -> whether anybody wants any
_KEEP = """
local P = 'fanfare:sessions:'
local dispatching = redis.call('EXISTS', P .. 'dispatching') == 1
if not dispatching and redis.call('EXISTS', P .. 'polling') == 0 then return 0 end
for i = 4, #ARGV, 2 do
  if dispatching then redis.call('LPUSH', P .. 'owed', ARGV[i + 1]) end
  if redis.call('EXISTS', P .. 'wanted:' .. ARGV[i]) == 1 then
    local key = P .. 'topic:' .. ARGV[i]
    redis.call('XADD', key, 'MAXLEN', ARGV[2], redis.call('INCR', P .. 'seq') .. '-0', 'event', ARGV[i + 1])
    redis.call('EXPIRE', key, ARGV[1])
  end
end
if dispatching then
  redis.call('LTRIM', P .. 'owed', 0, ARGV[3] - 1)
  redis.call('EXPIRE', P .. 'owed', ARGV[1])
end
return 1
"""

# how long, [[session, topics, most]] -> for each the events
_TAKE = """
local P = 'fanfare:sessions:'
local newest = tonumber(redis.call('GET', P .. 'seq') or '0')
redis.call('SET', P .. 'polling', 1, 'EX', ARGV[1])
local answers = {}
for place, session in ipairs(cjson.decode(ARGV[2])) do
  local id, topics, most = unpack(session)
  local at = tonumber(redis.call('GET', P .. 'at:' .. id) or newest)
  local found = {}
  for _, topic in ipairs(topics) do
    redis.call('SET', P .. 'wanted:' .. topic, 1, 'EX', ARGV[1])
    if at < newest then
      for _, entry in ipairs(redis.call('XRANGE', P .. 'topic:' .. topic, (at + 1) .. '-0', '+', 'COUNT', most + 1)) do
        found[#found + 1] = {tonumber(string.match(entry[1], '%d+')), entry[2][2]}
      end
    end
  end
  table.sort(found, function(a, b) return a[1] < b[1] end)
  local events, through = {}, newest
  for number, event in ipairs(found) do
    if number > most then break end
    events[number], at = event[2], event[1]
  end
  if #found > most then through = at end
  redis.call('SET', P .. 'at:' .. id, through, 'EX', ARGV[1])
  answers[place] = events
end
return answers
"""

# how long, how many -> the oldest of what is owed
_TAKE_OWED = """
redis.call('SET', 'fanfare:sessions:dispatching', 1, 'EX', ARGV[1])
return redis.call('RPOP', 'fanfare:sessions:owed', ARGV[2]) or {}
"""

_nobody_until = 0.0  # By the monotonic clock: as long as that, nobody is taken to poll.


@dataclass(frozen=True, slots=True)
class Taker:
    """A session that gets `most` events, of these topics."""

    session: str
    topics: Sequence[str]
    most: int


async def keep(events: Sequence[Event]) -> None:
    """Keeps events on their way to the bus (BUS_KEEPER). It neither raises, nor waits for long."""
    global _nobody_until
    kept = [event for event in events if event.topic.partition(".")[0] in KINDS]
    if not kept or time.monotonic() < _nobody_until:
        return
    args = [one for event in kept for one in (event.topic, msgspec.msgpack.encode([event.topic, event.pack()]))]
    try:
        somebody = await asyncio.to_thread(
            run, _KEEP, [], [KEPT_SECONDS, KEPT_EVENTS, OWED_EVENTS, *args], decode=False
        )
    except RedisDown:
        return
    if not somebody:
        _nobody_until = time.monotonic() + LOOK_SECONDS


def take(takers: Sequence[Taker]) -> list[list[Event]]:
    """For each what was kept since it was asked for last, oldest first. Nothing while Redis does not answer."""
    asked = msgspec.json.encode([(taker.session, taker.topics, taker.most) for taker in takers])
    try:
        found = run(_TAKE, [], [WANTED_SECONDS, asked], decode=False)
    except RedisDown:
        return [[] for _ in takers]
    return [_fresh(some) for some in found]


def take_owed(most: int) -> list[Event]:
    """What was kept for queues outside, oldest first, for who takes it first. Nothing while Redis does not answer."""
    try:
        return _fresh(run(_TAKE_OWED, [], [WANTED_SECONDS, most], decode=False))
    except RedisDown:
        return []


def _fresh(packed: Sequence[bytes]) -> list[Event]:
    oldest = time.time() - KEPT_SECONDS
    events = [Event.unpack(*msgspec.msgpack.decode(one)) for one in packed]
    return [event for event in events if event.published_at > oldest]
