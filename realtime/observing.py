"""Whoever keeps count of who is there: the class that REALTIME_OBSERVER names hears of connections that come and go."""

from enum import StrEnum
from typing import Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from accounts.principals import Principal
from realtime.connections import Connection
from realtime.protocol import LOGGED_OUT, CloseCode

LOST_CODES = (1006, 1011)  # Of sockets that were not closed: no answer to a ping, or no close frame.
RESTART_CODE = 1012


class Reason(StrEnum):
    """Why a connection is gone.

    `timeout`: it did not answer, or did not take what was sent. `restart`: its process goes, so it will soon be back.
    """

    CLOSED = "closed"
    TIMEOUT = "timeout"
    KICKED = "kicked"
    LOGOUT = "logout"
    RESTART = "restart"


class Observer(Protocol):
    """One for each event loop, made in it, and called in it alone.

    It takes notes: no method waits or raises, however the observer fares. `closed` follows every `opened`, once.
    """

    def opened(self, connection: Connection, principal: Principal, address: str | None, agent: str) -> None:
        """Somebody is here. A poll that comes back soon may be given the id that it had before."""

    def changed(self, connection: Connection) -> None:
        """The client was heard of, or its topics are other ones."""

    def closed(self, connection: Connection, reason: Reason) -> None: ...

    async def stop(self) -> None:
        """The process ends: what was not said yet is said now, or, within two seconds, never."""


class Nobody:
    """Observes nothing."""

    def opened(self, connection: Connection, principal: Principal, address: str | None, agent: str) -> None: ...

    def changed(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection, reason: Reason) -> None: ...

    async def stop(self) -> None: ...


def observer() -> Observer:
    """A new one for the running loop."""
    made: Observer = import_string(settings.REALTIME_OBSERVER)() if settings.REALTIME_OBSERVER else Nobody()
    return made


def why(connection: Connection, code: int | None = None, *, lost: bool = False) -> Reason:
    """Why a connection is gone: for what the server said, or else by the code that the socket ended with.

    `lost`: the client has ceased to answer, where that is known otherwise.
    """
    ours, text = connection.ended or (None, "")
    if ours is CloseCode.KICKED:
        return Reason.KICKED
    if ours is CloseCode.REVOKED and text == LOGGED_OUT:
        return Reason.LOGOUT
    if ours is CloseCode.SERVICE_RESTART or (ours is None and code == RESTART_CODE):
        return Reason.RESTART
    # A poll with more than it may keep is answered: its client takes that.
    stuck = ours is CloseCode.SLOW_READER and not connection.linger
    silent = ours is None and (lost or code in LOST_CODES)
    return Reason.TIMEOUT if stuck or silent else Reason.CLOSED
