"""Bells: for those who wait until there is anything new in a topic, and then look for themselves what it is.

That is cheaper than to listen (realtime.hub): nothing is kept of what comes in, nor of where anybody stands. What the
bus loses is not noticed, except while it is down, so nobody waits without looking for long.
"""

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from realtime.log import Log

JOIN_SECONDS = 0.25  # For the bus to let a topic join. Who waits is rung for again when it does so later.
LINGER_SECONDS = 30.0  # Those who wait soon come back: so long a bell stays where it is.
RUNG_AT_ONCE = 500  # Then the loop has its turn.

_SIGNAL = "signal."


Place = tuple[str | None, int]
"""The epoch and the head of a log."""


class Waiting(Protocol):
    """`bells`: those that it waits for; kept by Bells."""

    bells: "Sequence[Bell]"

    def ring(self) -> None: ...


@dataclass(slots=True, eq=False)
class Bell:
    name: str
    waiting: Collection[Waiting] = ()  # Mostly one: a set takes three times as much as all the rest.
    rung_at: float = math.inf  # The loop's time; the last join counts, too.
    place: Place | None = None  # Where the log was when somebody looked first.

    def add(self, one: Waiting) -> None:
        if isinstance(self.waiting, set):
            self.waiting.add(one)
        else:
            self.waiting = {*self.waiting, one} if self.waiting else (one,)

    def remove(self, one: Waiting) -> None:
        if isinstance(self.waiting, set):
            self.waiting.discard(one)
        else:
            self.waiting = ()


class Bells:
    def __init__(self, log: Log, join: Callable[[str], asyncio.Future[None]], leave: Callable[[str], None]) -> None:
        self._log = log
        self._join = join
        self._leave = leave
        self._bells: dict[str, Bell] = {}
        self._deserted: dict[str, float] = {}  # Since when, the longest first.
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._bells

    def names(self) -> Iterable[str]:
        return self._bells.keys()

    async def hang(self, one: Waiting, names: Mapping[str, Place | None], since: float) -> bool:
        """From now on whatever comes in these topics, and no others, rings -> whether nothing did since this time.

        If something may have, the caller has to look once more. `names`: with where the log was when they looked, if
        it is in one. `take_down` ends it.
        """
        if [bell.name for bell in one.bells] == list(names):
            for bell in one.bells:
                bell.place = names[bell.name] if len(bell.waiting) == 1 else bell.place
            return True
        self.take_down(one)
        joining = [joined for name in names if (joined := self._put_up(name)) and not joined.done()]
        one.bells = tuple([self._bells[name] for name in names])
        for bell in one.bells:
            bell.place = bell.place if bell.waiting else names[bell.name]
            bell.add(one)
            self._deserted.pop(bell.name, None)
        if joining:
            await asyncio.wait(joining, timeout=JOIN_SECONDS)
        return all(bell.rung_at < since for bell in one.bells)

    def take_down(self, one: Waiting) -> None:
        now = asyncio.get_running_loop().time()
        for bell in one.bells:
            bell.remove(one)
            if not bell.waiting:
                self._deserted[bell.name] = now
        one.bells = ()
        if self._deserted and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._tidy)

    def ring(self, name: str) -> None:
        """Something has come, or may have."""
        if bell := self._bells.get(name):
            bell.rung_at = asyncio.get_running_loop().time()
            _ring(list(bell.waiting))

    async def check(self, names: Iterable[str]) -> None:
        """Rings where the log has gone on, for the bus may not have told. Raises what the log raises."""
        mine = [name for name in names if name in self._bells]
        positions = await self._log.positions([name for name in mine if not name.startswith(_SIGNAL)])
        for name in mine:
            bell, found = self._bells.get(name), positions.get(name)
            place = (found.epoch, found.head) if found else None
            if bell and (place is None or place != bell.place):
                bell.place = place
                self.ring(name)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _put_up(self, name: str) -> asyncio.Future[None] | None:
        """-> when it is joined, if it was not here yet."""
        if name in self._bells:
            return None
        self._bells[name] = Bell(name)
        joined = self._join(name)
        joined.add_done_callback(lambda joined: None if joined.cancelled() else self.ring(name))
        return joined

    def _tidy(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        while self._deserted:
            name, since = next(iter(self._deserted.items()))
            if (left := since + LINGER_SECONDS - loop.time()) > 0:
                self._timer = loop.call_later(left, self._tidy)
                return
            del self._deserted[name], self._bells[name]
            self._leave(name)


def signalled(key: str) -> str:
    """The name of a bell for which there is no topic: `bus.signal` rings it."""
    return _SIGNAL + key


def _ring(waiting: list[Waiting]) -> None:
    for one in waiting[:RUNG_AT_ONCE]:
        one.ring()
    if rest := waiting[RUNG_AT_ONCE:]:
        asyncio.get_running_loop().call_soon(_ring, rest)
