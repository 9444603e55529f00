"""How often one owner may submit, where a board says so. The counts are in Redis, so all processes count together."""

from collections.abc import Iterable

from accounts.throttles import parse
from leaderboards.models import Board
from realtime.redis_scripts import Argument, RedisDown, run

# For each owner, when their bucket will be full again, in microseconds of Redis's clock (as in accounts.throttles).
_TAKE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local prefix, each, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local late = {}
for i = 4, #ARGV do
  local key = prefix .. ARGV[i]
  local full_at = math.min(math.max(tonumber(redis.call('GET', key) or 0), now), now + room) + each
  if full_at - now > room then
    late[#late + 1] = i - 4
  else
    redis.call('SET', key, string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000))
  end
end
return late
"""


def too_fast(board: Board, names: Iterable[str]) -> set[int]:
    """Counts submissions by their owners -> the places of those beyond the board's rate; none while Redis is down."""
    rate = parse(board.rate)
    if rate is None:
        return set()
    args: list[Argument] = [f"fanfare:rate:board:{board.pk}:", rate.each, rate.each * rate.count, *names]
    try:
        return set(run(_TAKE, [], args, decode=True))
    except RedisDown:
        return set()
