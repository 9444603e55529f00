"""The product with something done to it, for tests that start it as a process of its own."""

import logging
import os
import signal
from collections.abc import Iterable

import msgspec

from config.asgi import application  # First: it sets Django up.

# isort: split
from accounts import api_keys
from accounts.principals import Principal
from realtime import bus, runtime
from realtime.asgi import Receive, Scope, Send
from realtime.frames import Event
from realtime.streams import reply

_find = api_keys.find


def _find_and_tell(text: str) -> Principal | None:
    logging.getLogger("tests").info("Looking up %s", text)
    return _find(text)


async def that_shows_connections(scope: Scope, receive: Receive, send: Send) -> None:
    """`GET /test/connections` -> the classes of the process's live connections. It logs API keys, too."""
    api_keys.find = _find_and_tell
    if scope["type"] == "http" and scope["path"] == "/test/connections":
        names = [type(connection).__name__ for connection in runtime.current().gate.connections]
        await reply(send, 200, msgspec.json.encode(names))
    else:
        await application(scope, receive, send)


def _die(events: Iterable[Event]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def that_dies_before_it_publishes(scope: Scope, receive: Receive, send: Send) -> None:
    """kill -9 between the commit of a message and its way to the bus."""
    bus.publish = _die
    await application(scope, receive, send)
