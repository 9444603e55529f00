"""The product, killed when it is about to say `ok`: `uvicorn tests.adapters.talking:that_dies_before_ok`."""

import os
import signal
from typing import Any

from config.asgi import application  # First: it sets Django up.

# isort: split
from realtime import protocol
from realtime.asgi import Receive, Scope, Send


def _die(ref: Any, **fields: Any) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


async def that_dies_before_ok(scope: Scope, receive: Receive, send: Send) -> None:
    protocol.ok = _die
    await application(scope, receive, send)
