"""Sessions that wait: a bell wakes them when something comes in for them, and they ask the desk again."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from realtime import runtime
from realtime.asgi import Receive as NextMessage
from realtime.bells import signalled
from realtime.connections import Connection
from realtime.frames import bare_bodies
from realtime.protocol import CloseCode
from realtime.requests import until_gone
from sessions_app.desk import desk
from sessions_app.receiving import Handed, Receive, acknowledged

SHORTEST_WAIT = 0.05  # For what is due again: clocks differ.


class Waiter(Connection):
    """A waiting session, as bells, draining and revocation know it."""

    __slots__ = ("_rung", "_sleep", "bells")

    encoding = staticmethod(bare_bodies)
    transport = "receive"

    def __init__(self) -> None:
        super().__init__(user=None, max_backlog=0)
        self.bells: Sequence[str] = ()
        self._rung = False
        self._sleep: asyncio.Timeout | None = None

    def write(self, data: Any) -> None:
        self.ring()

    def _end(self, code: CloseCode, reason: str) -> None:
        self.ring()

    def ring(self) -> None:
        self._rung = True
        if self._sleep and not self._sleep.expired():
            self._sleep.reschedule(0)

    def is_listening(self) -> None:
        """From now on it wants to know."""
        self._rung = False

    async def sleep(self, seconds: float, receive: NextMessage) -> bool:
        """Until it is rung for, or this time is over; or until the client has left -> whether it has."""
        try:
            async with asyncio.timeout(0 if self._rung else max(0.0, seconds)) as self._sleep:
                await until_gone(receive)
        except TimeoutError:
            return False
        finally:
            self._sleep = None
        return True


async def receive_within(waiter: Waiter, ask: Receive, seconds: float, receive: NextMessage) -> tuple[Handed, bool]:
    """What comes in this time, and whether the client has left meanwhile. Raises ApiError 404 and 503.

    The waiter may be ended meanwhile.
    """
    bells, loop = runtime.current().hub.bells, asyncio.get_running_loop()
    ends_at = loop.time() + seconds
    try:
        while True:
            asked_at = loop.time()
            waiter.is_listening()
            handed = await desk().receive(ask)
            if handed.messages or waiter.ended or loop.time() >= ends_at:
                return handed, await waiter.sleep(0, receive)
            if not await bells.hang(waiter, _what_matters(ask, handed), asked_at):
                continue  # It may have come in between.
            left = ends_at - loop.time()
            until_due = max(SHORTEST_WAIT, handed.due - time.time()) if handed.due else left
            is_gone = await waiter.sleep(min(left, until_due), receive)
            if is_gone or waiter.ended or loop.time() >= ends_at:
                return handed, is_gone
    finally:
        bells.take_down(waiter)


def _what_matters(ask: Receive, handed: Handed) -> Sequence[str]:
    return (signalled(acknowledged(ask.session)),) if handed.full else tuple(handed.at)
