"""A web process as Redis sees it: a tracker that does nothing before it is told to, and connections that are none."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from accounts.principals import Kind, Principal
from presence.tracker import Tracker
from realtime.connections import Connection, PollConnection
from realtime.frames import bare_bodies
from realtime.observing import Reason
from realtime.protocol import CloseCode


class Silent(Connection):
    """A socket without a client."""

    encoding = staticmethod(bare_bodies)
    transport = "websocket"

    def write(self, data: object) -> None: ...

    def _end(self, code: CloseCode, reason: str) -> None: ...


def somebody(user: str | None = "ada", account: str | None = "acme") -> Principal:
    kind = Kind.SERVICE if user is None else Kind.USER
    return Principal(kind, user or "backend", account)


class Process:
    """Use `run` for what needs the loop; `flush` and `renew` are single steps of the tracker."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.tracker = self.call(Tracker)
        self.run(self._stop_running)
        self.open: list[Silent] = []

    async def _stop_running(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.tracker._tasks = []

    def run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        return self.loop.run_until_complete(function(*args))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        async def within() -> Any:
            return function(*args, **kwargs)

        return self.run(within)

    def come(self, user: str | None = "ada", agent: str = "test") -> Silent:
        connection = Silent(user=user, max_backlog=1)
        self.call(self.tracker.opened, connection, somebody(user), "192.0.2.1", agent)
        self.open.append(connection)
        return connection

    def poll(self, user: str | None = "ada", agent: str = "test") -> PollConnection:
        connection: PollConnection = self.call(PollConnection, user=user, max_backlog=1, place=bytes)
        self.call(self.tracker.opened, connection, somebody(user), "192.0.2.1", agent)
        return connection

    def go(self, connection: Connection, reason: Reason = Reason.CLOSED) -> None:
        if connection in self.open:
            self.open.remove(connection)
        self.call(self.tracker.closed, connection, reason)

    def flush(self) -> None:
        """Tells all that there is to tell."""
        while self.tracker._news or self.tracker._lost:
            self.run(self.tracker._flush)

    def renew(self) -> None:
        self.run(self.tracker._renew)

    def stop(self) -> None:
        """SIGTERM, after its connections were closed."""
        self.run(self.tracker.stop)
        self.kill()

    def kill(self) -> None:
        """kill -9."""
        self.loop.close()
