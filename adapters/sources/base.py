"""The contract between sources that are consumed and what runs them (adapters.sources.consuming)."""

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, ParamSpec, Protocol, TypeVar

from adapters.ingest import Record, Result

P = ParamSpec("P")
T = TypeVar("T")

FINISH_SECONDS = 8.0  # What is in flight has so long when it is to stop.

Take = Callable[[Sequence[Record]], Awaitable[list[Result]]]
"""Hands records to `ingest`, in a thread, and waits for as long as the database does not answer.

When all is to stop, it waits no longer, and raises: none of the records can be forgotten then.
"""


class Consumer(Protocol):
    """Brings the records of one source. It is made with a `Source` of the settings, and imports its SDK then."""

    name: str

    async def run(self, take: Take) -> None:
        """Brings records until it is cancelled; what is in flight is then finished, within FINISH_SECONDS.

        It forgets a record, or moves its position past it, only when the result is `done`. What it raises is logged,
        and it is run again after a while.
        """


async def take_all(take: Take, records: Sequence[Record]) -> None:
    """Hands records in until each is taken or dead: for sources that cannot bring a single one of them again."""
    backoff = Backoff(0.05, 1.0)
    while records:
        results = await take(records)
        records = [record for record, result in zip(records, results, strict=True) if not result.done]
        if records:
            await asyncio.sleep(backoff.next())


class Backoff:
    """How long to wait after each failure in a row: random, twice as long each time, `most` seconds at most."""

    def __init__(self, least: float = 0.5, most: float = 30.0) -> None:
        self._least, self._most, self._failures = least, most, 0

    def next(self) -> float:
        self._failures += 1
        return backoff(self._failures - 1, self._least, self._most)

    def reset(self) -> None:
        self._failures = 0


def backoff(failures: int, least: float, most: float) -> float:
    """Seconds to wait after so many failures before this one."""
    longest = min(most, least * 2.0 ** min(failures, 30))
    return random.uniform(longest / 2, longest)  # noqa: S311 (no secret)


async def finish(work: Coroutine[Any, Any, T]) -> T:
    """Waits for work that must not stop half way: a cancellation takes effect when it is done, or takes too long."""
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=FINISH_SECONDS)
        task.cancel()
        done, _late = await asyncio.wait([task], timeout=FINISH_SECONDS / 4)
        if done and not task.cancelled():
            task.exception()  # It is seen; that all is to stop counts more.
        raise


async def abandonable(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function that blocks, in a thread that nobody waits for when this is cancelled, or the process ends.

    Not on an executor: Python waits for the threads of these before it ends.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], T]) -> None:
        if future.done():
            return
        try:
            future.set_result(outcome())
        except Exception as error:
            future.set_exception(error)

    def work() -> None:
        outcome = _outcome(lambda: function(*args, **kwargs))
        with suppress(RuntimeError):  # The loop has ended meanwhile.
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=work, name="abandonable", daemon=True).start()
    return await future


def _outcome(function: Callable[[], T]) -> Callable[[], T]:
    """Calls it -> what returns, or raises, the same once more."""
    try:
        result = function()
    except Exception as error:
        return partial(_reraise, error)
    return lambda: result


def _reraise(error: Exception) -> NoReturn:
    raise error
