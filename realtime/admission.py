"""Who comes in, by whatever way: limits, identity, topics."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from django.conf import settings
from django.utils.module_loading import import_string

from accounts.credentials import Unauthenticated, authenticate
from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.throttles import throttle, throttle_address
from realtime import metrics
from realtime.asgi import Scope
from realtime.authorizers import refusals, require
from realtime.connections import Closable
from realtime.database import in_database
from realtime.mutes import NOTHING, Mute

logger = logging.getLogger(__name__)

AUTHENTICATE_SECONDS = 10.0


class Bucket:
    """A token bucket: `rate` a second on average, `burst` at once."""

    __slots__ = ("_burst", "_full_at", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._full_at = 0.0  # When it will be full again.

    def take(self) -> bool:
        """Takes a token, if there is one."""
        now = time.monotonic()
        full_at = max(self._full_at, now) + 1 / self._rate
        if full_at - now > self._burst / self._rate:
            return False
        self._full_at = full_at
        return True


@dataclass(slots=True)
class Gate:
    """Counts the connections of this process, and says when there are too many. Raises ApiError 429 and 503."""

    handshakes: Bucket = field(
        default_factory=lambda: Bucket(settings.HANDSHAKES_PER_SECOND, 2 * settings.HANDSHAKES_PER_SECOND)
    )
    connections: set[Closable] = field(default_factory=set)
    draining: bool = False
    inside: int = 0
    users: Counter[str] = field(default_factory=Counter)

    def knock(self) -> None:
        """Before anything is done for a newcomer."""
        self.look()
        if not self.handshakes.take():
            metrics.refused.labels("handshake_rate").inc()
            raise ApiError(503, "too_many_handshakes", "Too many at once (HANDSHAKES_PER_SECOND).", retry_after=2)

    def look(self) -> None:
        """Before anything is done for who is no newcomer: whether there is room."""
        if self.draining:
            metrics.refused.labels("draining").inc()
            raise ApiError(503, "draining", "This process is shutting down: come back.", retry_after=1)
        self._find_room()

    def enter(self, user: str | None) -> None:
        """Once it is known who it is; `leave` takes it back. Services have no limit of their own."""
        self._find_room()  # Others came in meanwhile.
        if user is not None:
            if self.users[user] >= settings.CONNECTIONS_PER_USER:
                metrics.refused.labels("user_full").inc()
                raise ApiError(
                    429,
                    "too_many_connections",
                    f"A user has {settings.CONNECTIONS_PER_USER} connections at most (CONNECTIONS_PER_USER).",
                    retry_after=30,
                )
            self.users[user] += 1
        self.inside += 1

    def _find_room(self) -> None:
        if self.inside >= settings.CONNECTIONS_PER_PROCESS:
            metrics.refused.labels("process_full").inc()
            raise ApiError(503, "process_full", "This process is full (CONNECTIONS_PER_PROCESS).", retry_after=5)

    def leave(self, user: str | None) -> None:
        self.inside -= 1
        if user is not None:
            self.users[user] -= 1
            if not self.users[user]:
                del self.users[user]


def headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def query_of(scope: Scope) -> dict[str, str]:
    """The query's parameters; of one that is repeated, the last counts."""
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


def wants_raw(scope: Scope) -> bool:
    """Whether the query asks for frames that are `data` alone. Raises ApiError 400 for any other `format`."""
    wanted = query_of(scope).get("format", "")
    if wanted not in ("", "raw"):
        raise ApiError(400, "malformed", "format: `raw`, or nothing.")
    return wanted == "raw"


async def identify(scope: Scope) -> tuple[Principal, Mute]:
    """Who it is, and what they do not get live. Raises Unauthenticated, or ApiError 503 while nobody can say."""
    try:
        async with asyncio.timeout(AUTHENTICATE_SECONDS):
            return await in_database(_identify, scope)
    except ApiError:
        raise
    except Exception as error:
        metrics.refused.labels("unavailable").inc()
        raise ApiError(503, "unavailable", "Who you are cannot be looked up now: try again.", retry_after=2) from error


def address_of(scope: Scope) -> str | None:
    """The caller's address; behind a trusted proxy, the one that it names. None on a unix socket."""
    address, *_port = scope.get("client") or (None,)
    return address


def _identify(scope: Scope) -> tuple[Principal, Mute]:
    """A poll counts as a request of its caller, the rest as a handshake from its address."""
    polls = scope["path"] == "/api/poll"
    if not polls:
        throttle_address(address_of(scope))
    try:
        principal = authenticate(headers_of(scope), query_of(scope), scope.get("subprotocols", ()))
    except Unauthenticated:
        if polls:
            throttle_address(address_of(scope))
        raise
    if polls:
        throttle(principal)
    if principal.user is None:
        return principal, NOTHING
    find_mute: Callable[[str], Mute] = import_string(settings.REALTIME_MUTES)
    return principal, find_mute(principal.user)


@dataclass(frozen=True, slots=True)
class Refused:
    """A topic that was asked for, and why it is refused."""

    topic: str
    error: ApiError


@dataclass(frozen=True, slots=True)
class Chosen:
    """The topics to enter, those that are refused, and whose session the connection is, where it says so."""

    names: list[str]
    refused: list[Refused]
    session: str | None


async def choose_topics(principal: Principal, scope: Scope) -> Chosen:
    """The topics asked for as `?topics=a,b`, or else the caller's own, with that of `?session=`."""
    query = query_of(scope)
    asked, session = query.get("topics"), query.get("session")
    refused: list[Refused] = []
    names = principal.own_topics if asked is None else [name for name in dict.fromkeys(asked.split(",")) if name]
    if session is not None:
        try:
            topic = await _attach(principal, session)
            names += [topic] if asked is None else []
        except ApiError as error:
            refused.append(Refused(f"session.{session}", error))
            session = None
    most = settings.TOPICS_PER_CONNECTION
    names, surplus = names[:most], names[most : most + 1]
    errors = await refusals(principal, "subscribe", names)
    refused += [Refused(name, error) for name, error in errors.items()]
    refused += [Refused(name, _too_many_topics()) for name in surplus]
    return Chosen([name for name in names if name not in errors], refused, session)


async def _attach(principal: Principal, session: str) -> str:
    """The session's topic, as REALTIME_SESSION knows it."""
    attach: Callable[[Principal, str], str] = import_string(settings.REALTIME_SESSION)
    try:
        return await in_database(attach, principal, session)
    except ApiError:
        raise
    except Exception as error:
        raise ApiError(503, "unavailable", "The session cannot be looked up now: try again.", retry_after=2) from error


async def admit(principal: Principal, name: str, *, already: int) -> None:
    """Raises ApiError 400, 403 or 503 unless the principal may subscribe to one more topic, and to this one."""
    if already >= settings.TOPICS_PER_CONNECTION:
        raise _too_many_topics()
    await require(principal, "subscribe", name)


async def greeting(principal: Principal, names: Iterable[str]) -> dict[str, Any]:
    """What else the `welcome` of a user who listens to their own topic says: REALTIME_GREETING knows, or nobody now."""
    if principal.acts is None or f"user.{principal.acts}" not in names:
        return {}
    look: Callable[[Principal], dict[str, Any]] = import_string(settings.REALTIME_GREETING)
    try:
        return await in_database(look, principal)
    except Exception as error:  # Whatever the database raises: who is let in can ask again.
        logger.warning("A newcomer could not be greeted: %r", error)
        return {}


def _too_many_topics() -> ApiError:
    most = settings.TOPICS_PER_CONNECTION
    return ApiError(403, "too_many_topics", f"A connection has {most} topics at most (TOPICS_PER_CONNECTION).")
