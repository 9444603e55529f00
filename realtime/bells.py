"""Bells: for those who wait until there is anything new in a topic, and then look for themselves what it is.

That is cheaper than to listen (realtime.hub): nothing is kept of what comes in, nor of where anybody stands. What the
bus loses is not noticed, except while it is down, so nobody waits without looking for long.
"""

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from realtime import bus
from realtime.frames import Event
from realtime.log import Log, Position

JOIN_SECONDS = 0.25  # For the bus to let a topic join. Who waits is rung for again when it does so later.
LINGER_SECONDS = 30.0  # Those who wait soon come back: so long a bell stays where it is.
RUNG_AT_ONCE = 500  # Then the loop has its turn.

_SIGNAL = "signal."


class Waiting(Protocol):
    """`bells`: the names that it waits for."""

    bells: Sequence[str]

    def ring(self) -> None: ...


@dataclass(slots=True)
class _Bell:
    waiting: set[Waiting] = field(default_factory=set)
    rung_at: float = math.inf  # The loop's time; the last join counts, too. Never as long as it is not joined.
    position: Position | None = None  # Where the log was seen to be, while the bus was down.


class Bells:
    def __init__(self, log: Log, join: Callable[[str], asyncio.Future[None]], leave: Callable[[str], None]) -> None:
        self._log = log
        self._join = join
        self._leave = leave
        self._bells: dict[str, _Bell] = {}
        self._deserted: dict[str, float] = {}  # Since when, the longest first.
        self._timer: asyncio.TimerHandle | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._bells

    def names(self) -> Iterable[str]:
        return self._bells.keys()

    async def hang(self, one: Waiting, names: Sequence[str], since: float) -> bool:
        """From now on whatever comes in these topics, and no others, rings -> whether nothing did since this time.

        If something may have, the caller has to look once more. `take_down` ends it.
        """
        if one.bells == names:
            return True
        self.take_down(one)
        one.bells = names
        joining = [joined for name in names if (joined := self._hang(one, name)) and not joined.done()]
        if joining:
            await asyncio.wait(joining, timeout=JOIN_SECONDS)
        return all(self._bells[name].rung_at < since for name in names)

    def take_down(self, one: Waiting) -> None:
        now = asyncio.get_running_loop().time()
        for name in one.bells:
            waiting = self._bells[name].waiting
            waiting.discard(one)
            if not waiting:
                self._deserted[name] = now
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
            position, bell = positions.get(name), self._bells.get(name)
            if bell and (position is None or position != bell.position):
                bell.position = position
                self.ring(name)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _hang(self, one: Waiting, name: str) -> asyncio.Future[None] | None:
        """-> when it is joined, if it was not here yet."""
        self._deserted.pop(name, None)
        if bell := self._bells.get(name):
            bell.waiting.add(one)
            return None
        self._bells[name] = _Bell({one})
        joined = self._join(name)
        joined.add_done_callback(lambda joined: joined.cancelled() or self.ring(name))
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


def signal(keys: Iterable[str]) -> None:
    """Rings the bells of this name, `signalled(key)`, in all processes. What is not heard is lost."""
    bus.publish([Event(signalled(key), b"") for key in keys])


def signalled(key: str) -> str:
    """The name of a bell for which there is no topic."""
    return _SIGNAL + key


def _ring(waiting: list[Waiting]) -> None:
    for one in waiting[:RUNG_AT_ONCE]:
        one.ring()
    if rest := waiting[RUNG_AT_ONCE:]:
        asyncio.get_running_loop().call_soon(_ring, rest)
