"""Shutting down without a stampede: not ready, nobody new, everybody sent away one after the other, then exit."""

import asyncio
import random
import signal
from types import FrameType

from django.conf import settings

from realtime import runtime
from realtime.protocol import CloseCode

SECONDS_FOR_EACH = 0.01  # A few connections do not hold up the exit for DRAIN_SECONDS.


def drain_on_sigterm() -> None:
    """Puts draining in front of what the server does at SIGTERM. Call it in the main thread, once the server runs."""
    loop = asyncio.get_running_loop()
    server_handler = signal.getsignal(signal.SIGTERM)
    if not callable(server_handler):  # This server does not handle it: nothing to come in front of.
        return
    draining: list[asyncio.Task[None]] = []

    async def drain_then_exit(signum: int, frame: FrameType | None) -> None:
        try:
            await drain()
        finally:
            server_handler(signum, frame)

    def handle(signum: int, frame: FrameType | None) -> None:
        if draining:  # Asked twice: at once.
            server_handler(signum, frame)
        else:
            loop.call_soon_threadsafe(lambda: draining.append(loop.create_task(drain_then_exit(signum, frame))))

    signal.signal(signal.SIGTERM, handle)


async def drain() -> None:
    """Refuses newcomers and closes every connection with 1012, in random order, over DRAIN_SECONDS at most."""
    gate = runtime.current().gate
    gate.draining = True
    leaving = list(gate.connections)
    random.shuffle(leaving)
    pause = min(SECONDS_FOR_EACH, settings.DRAIN_SECONDS / max(1, len(leaving)))
    for connection in leaving:
        connection.close(CloseCode.SERVICE_RESTART, "restarting, come back")
        await asyncio.sleep(pause)
