"""What a process needs of whoever watches over users' presence for its connections: REALTIME_WATCHING names it."""

from collections.abc import Sequence
from typing import Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from accounts.principals import Principal
from realtime.connections import Connection
from realtime.hub import Hub
from realtime.receiver import Receiver


class Watching(Protocol):
    def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def watch(
        self, connection: Connection, principal: Principal, users: Sequence[str]
    ) -> tuple[list[bytes], list[str]]:
        """Watches these users instead of those before -> how they are, as JSON, and who of them is refused."""

    def unwatch(self, connection: Connection) -> None: ...

    async def refresh(self, connection: Connection, principal: Principal) -> None:
        """The connection has a fresh credential: it goes on, less the users whom that does not open."""


def watching(receiver: Receiver, hub: Hub) -> Watching:
    found: Watching = import_string(settings.REALTIME_WATCHING)(receiver, hub)
    return found
