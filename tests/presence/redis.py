"""A Redis of the test's own, whose clock can be moved on, and that can be lost or not answer."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import LazySettings
from redis import Redis

from presence import registry

# Each time that Redis keeps is so much longer ago.
PASS = """
local P = 'fanfare:presence:'
for _, key in ipairs({P .. 'nodes', P .. 'due'}) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do redis.call('ZINCRBY', key, -ARGV[1], member) end
end
for _, name in ipairs({'since', ARGV[2]}) do
  local time = redis.call('GET', P .. name)
  if time then redis.call('SET', P .. name, string.format('%.6f', time - ARGV[1])) end
end
if redis.call('HGET', P .. 'look', 'since') then
  for _, name in ipairs({'seen', 'since'}) do
    local time = redis.call('HGET', P .. 'look', name)
    if time ~= '' then redis.call('HSET', P .. 'look', name, string.format('%.6f', time - ARGV[1])) end
  end
end
"""


class TestRedis:
    __test__ = False

    def __init__(self, url: str) -> None:
        self.client: Any = Redis.from_url(url, decode_responses=True)
        self.empty()

    def empty(self) -> None:
        self.client.flushdb()

    def wait(self, seconds: float, *, silent: bool = False) -> None:
        """Lets time pass, in no time. `silent`: nobody calls meanwhile."""
        self.client.eval(PASS, 0, seconds, "heard" if silent else "none")

    def make_whole(self) -> None:
        """As if everybody had called for long."""
        registry.look()
        since = float(self.client.get("fanfare:presence:since"))
        self.client.set("fanfare:presence:since", f"{since - 1000:.6f}")

    @property
    def since(self) -> str:
        return self.client.get("fanfare:presence:since") or ""

    def due(self, user: str) -> float | None:
        """In how many seconds a user is to be settled."""
        score = self.client.zscore("fanfare:presence:due", user)
        seconds, micros = self.client.time()
        return None if score is None else float(score - seconds - micros / 1e6)


@pytest.fixture
def redis(settings: LazySettings, worker_id: str) -> Iterator[TestRedis]:
    """Empty, and used by this test alone: a database of each worker's own."""
    number = 1 + int(worker_id.removeprefix("gw") if worker_id != "master" else 0) % 14
    settings.REDIS_URL = f"{settings.REDIS_URL}?db={number}"
    made = TestRedis(settings.REDIS_URL)
    yield made
    made.empty()
    made.client.close()
