"""Whoever tells listeners, tick by tick, of what changes too often to be told each time: REALTIME_TICKER names it."""

from typing import Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from realtime.connections import Connection
from realtime.hub import Hub


class Ticker(Protocol):
    """One for each event loop, made in it, and called in it alone. It works for those topics that have a listener."""

    def start(self) -> None: ...

    async def stop(self) -> None: ...

    def follow(self, connection: Connection, topic: str, user: str) -> None:
        """From now on the connection hears how the user stands there, as long as it listens to the topic."""

    def unfollow(self, connection: Connection, topic: str) -> None: ...


def ticker(hub: Hub) -> Ticker:
    found: Ticker = import_string(settings.REALTIME_TICKER)(hub)
    return found
