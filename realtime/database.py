"""Database work for the event loop: a few threads with a bounded queue, instead of the one that all sockets share."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import ParamSpec, TypeVar

from django.conf import settings
from django.db import connections

from accounts.errors import ApiError

P = ParamSpec("P")
T = TypeVar("T")

MAX_WAITING = 20_000

_waiting = 0


async def in_database(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function that uses the ORM on one of REALTIME_DATABASE_THREADS threads.

    Raises ApiError 503 when MAX_WAITING calls wait already, TimeoutError when the database takes too long.
    """
    global _waiting
    if _waiting >= MAX_WAITING:
        raise ApiError(503, "busy", "The database has too much to do: try again.", retry_after=1)
    _waiting += 1
    try:
        async with asyncio.timeout(settings.DATABASE_TIMEOUT + 10):
            return await in_threads(_threads(), function, *args, **kwargs)
    finally:
        _waiting -= 1


async def in_threads(threads: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs a function that may use the ORM on threads that a caller has for itself."""
    context = contextvars.copy_context()
    work: asyncio.Future[T] = asyncio.get_running_loop().run_in_executor(
        threads, context.run, _run, lambda: function(*args, **kwargs)
    )
    return await work


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(settings.REALTIME_DATABASE_THREADS, thread_name_prefix="database")


def _run(work: Callable[[], T]) -> T:
    try:
        return work()
    except Exception:
        connections.close_all()  # It may be broken: the next one gets a fresh one.
        raise
    finally:
        for connection in connections.all(initialized_only=True):
            if connection.vendor != "sqlite":  # Back to the pool; SQLite's is kept open, for it has none.
                connection.close()
