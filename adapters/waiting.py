"""Receivers that wait: one look for all of a process's at what their tables have, four times a second.

Where nobody waits, nobody looks.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID
from weakref import WeakKeyDictionary

from accounts.errors import ApiError
from adapters import fetching
from adapters.fetching import Fetched
from realtime import metrics
from realtime.database import in_database

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
WAITING_MAX = 200  # In a process.


@dataclass(eq=False, frozen=True, slots=True)
class Waiter:
    """Somebody who waits for `found`; they have left when it is cancelled."""

    destinations: frozenset[UUID]
    most: int
    visibility: float
    found: asyncio.Future[list[Fetched]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Room:
    """Where they wait, served in the order in which they came."""

    def __init__(self) -> None:
        self._waiters: dict[Waiter, None] = {}
        self._looking: asyncio.Task[None] | None = None
        self._failing = False

    @contextmanager
    def waiting(self, waiter: Waiter) -> Iterator[None]:
        """For the time of the block, what comes is looked out for. Raises ApiError 503 where too many wait."""
        if len(self._waiters) >= WAITING_MAX:
            metrics.refused.labels("receivers_full").inc()
            raise ApiError(503, "process_full", f"In this process {WAITING_MAX} receivers wait already.", retry_after=5)
        self._waiters[waiter] = None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="receivers")
        try:
            yield
        finally:
            del self._waiters[waiter]
            waiter.found.cancel()

    async def _look(self) -> None:
        while self._waiters:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._serve()
                self._failing = False
            except Exception as error:  # Whatever the database raises: who waits gets nothing meanwhile.
                if not self._failing:
                    logger.warning("Tables cannot be read for those who wait: %r", error)
                self._failing = True

    async def _serve(self) -> None:
        wanted = frozenset[UUID]().union(*(waiter.destinations for waiter in self._waiters))
        filled = set(await in_database(fetching.ready, wanted)) if wanted else set()
        for waiter in list(self._waiters):
            if not filled:
                return
            theirs = waiter.destinations & filled
            if not theirs or waiter.found.done():
                continue
            lent = await in_database(fetching.receive, theirs, waiter.most, waiter.visibility)
            if len(lent) < waiter.most:
                filled -= theirs
            if waiter.found.done():  # They have left meanwhile.
                await in_database(fetching.give_back, [one.receipt for one in lent])
            elif lent:
                waiter.found.set_result(lent)


_rooms: WeakKeyDictionary[asyncio.AbstractEventLoop, Room] = WeakKeyDictionary()


def room() -> Room:
    """This loop's."""
    return _rooms.setdefault(asyncio.get_running_loop(), Room())
