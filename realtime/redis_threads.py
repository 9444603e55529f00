"""Redis in the event loop, by threads of a caller's own: one that does not answer holds up nothing else."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from realtime.database import in_threads
from realtime.redis_scripts import RedisDown

PAUSE_SECONDS = 1.0  # For which Redis is not asked after it did not answer: nobody waits in line for it.

P = ParamSpec("P")
T = TypeVar("T")


class RedisThreads:
    def __init__(self, name: str, count: int = 2) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix=name)  # None is started before it is needed.
        self._down_until = 0.0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs a function that asks Redis, or the database, too. Raises RedisDown, and for a while after one at once."""
        return await in_threads(self._threads, self._unless_down, lambda: function(*args, **kwargs))

    def _unless_down(self, work: Callable[[], T]) -> T:
        if time.monotonic() < self._down_until:
            raise RedisDown("Redis did not answer a moment ago")
        try:
            return work()
        except RedisDown:
            self._down_until = time.monotonic() + PAUSE_SECONDS
            raise
