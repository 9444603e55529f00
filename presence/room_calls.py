"""Redis for rooms in the event loop, by threads of their own: one that does not answer holds up nothing else."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar

from realtime.redis_scripts import RedisDown

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 2
PAUSE_SECONDS = 1.0  # For which Redis is not asked after it did not answer.

_down_until = 0.0


async def in_redis(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function of presence.rooms. Raises RedisDown, and for a while after one at once."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), _run, lambda: function(*args, **kwargs))


def _run(work: Callable[[], T]) -> T:
    global _down_until
    if time.monotonic() < _down_until:
        raise RedisDown("Redis did not answer a moment ago")
    try:
        return work()
    except RedisDown:
        _down_until = time.monotonic() + PAUSE_SECONDS
        raise


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="rooms")
