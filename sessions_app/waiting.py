"""Sessions that wait: a bell wakes them when something comes in for them, and they ask the desk again."""

import asyncio
import math
import time
from collections.abc import Sequence

from realtime import metrics, runtime
from realtime.asgi import Receive as NextMessage
from realtime.bells import Bell, signalled
from realtime.protocol import CloseCode
from realtime.requests import until_gone
from sessions_app.desk import desk
from sessions_app.receiving import Receive, acknowledged
from sessions_app.shapes import ReceivedMessage

SHORTEST_WAIT = 0.05  # For what is due again: clocks differ.


class Waiter:
    """A waiting session, as bells, draining and revocation know it. `ended`: why, where it was the server."""

    __slots__ = ("_rung", "_sleep", "bells", "ended")

    def __init__(self) -> None:
        self.bells: Sequence[Bell] = ()
        self.ended: CloseCode | None = None
        self._rung = False
        self._sleep: asyncio.Timeout | None = None

    def close(self, code: CloseCode, reason: str) -> None:
        if self.ended is None:
            self.ended = code
            metrics.closes.labels(int(code)).inc()
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


async def receive_within(
    waiter: Waiter, ask: Receive, seconds: float, receive: NextMessage
) -> tuple[Sequence[ReceivedMessage], bool]:
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
                return handed.messages, await waiter.sleep(0, receive)
            due = handed.due or math.inf
            names = {signalled(acknowledged(ask.session)): None} if handed.full else handed.at
            del handed  # It would take as much memory as all else here.
            is_quiet = await bells.hang(waiter, names, asked_at)
            del names
            if not is_quiet:  # It may have come in between.
                continue
            is_gone = await waiter.sleep(min(ends_at - loop.time(), max(SHORTEST_WAIT, due - time.time())), receive)
            if is_gone or waiter.ended or loop.time() >= ends_at:
                return (), is_gone
    finally:
        bells.take_down(waiter)
