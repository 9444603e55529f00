"""Topics: named streams, `kind.key` or a bare kind. The kind decides who may do what; an unlisted kind is denied."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
from django.conf import settings
from django.utils.module_loading import import_string

from accounts.errors import ApiError
from accounts.principals import ID_MAX_BYTES, Principal, valid_id
from realtime.log import Log, Page, Position

INFO_MAX_BYTES = 1024
HASHED = "sha256:"


class Topic:
    """What one kind of topic allows. Subclasses are listed in REALTIME_TOPICS; what they do not allow is denied."""

    keyed = True
    shared = False  # Many listen to the same one: the hub keeps its latest events in memory.
    log: Log | None = None  # Of a state: where the hub reads its snapshot. The others are in REALTIME_LOG.
    authorizer: str | None = None  # The dotted path of who decides about the rest, unless TOPIC_AUTHORIZERS does.
    takes_info = False  # Whether who subscribes may say something with it.
    tells_me = False  # Whether users may hear how they stand there.

    def may_subscribe(self, principal: Principal, name: str) -> bool:
        return False

    def may_publish(self, principal: Principal, name: str) -> bool:
        return False

    def missing(self, names: Sequence[str]) -> Mapping[str, ApiError]:
        """Those of these that nobody can hear, and how they are refused. It may ask the database: it is for threads."""
        return {}

    def publish(self, principal: Principal, name: str, type: str, data: Any) -> dict[str, Any]:
        """Accepts a message from a client -> `{id, topic, epoch, offset}`. The caller has asked `may_publish`."""
        raise NotImplementedError


def resolve(name: str) -> Topic:
    """The rules for a topic. Raises ApiError 400 for a name that cannot be, 403 for a kind that is not open."""
    kind, dot, key = name.partition(".")
    topic = _kinds().get(kind)
    if topic is None:
        raise ApiError(403, "denied", f"There is no topic {kind[:50]!r} for you: {', '.join(sorted(_kinds()))}.")
    if topic.keyed != bool(dot) or (dot and not valid_id(key)):
        raise ApiError(
            400,
            "malformed_topic",
            f"Not a topic of kind {kind}: a key is 1-{ID_MAX_BYTES} bytes of printable text without comma."
            if topic.keyed
            else f"Topic {kind} has no key.",
        )
    return topic


def topic_for(kind: str, id: str) -> str:
    """The topic of something with an id, which may be longer than a key can be: then a hash of it stands there."""
    if len(id.encode()) > ID_MAX_BYTES:
        id = HASHED + hashlib.sha256(id.encode()).hexdigest()
    return f"{kind}.{id}"


def is_shared(name: str) -> bool:
    return resolve(name).shared


def is_state(name: str) -> bool:
    return resolve(name).log is not None


def encoded_info(name: str, info: Any) -> bytes:
    """What a client says with a topic, as JSON. Raises ApiError 400 where nothing can be said, or not so much."""
    if info is None:
        return b"null"
    if not resolve(name).takes_info:
        raise ApiError(400, "malformed", "info: only rooms take it.")
    encoded = msgspec.json.encode(info)
    if len(encoded) > INFO_MAX_BYTES:
        raise ApiError(400, "malformed", f"info: at most {INFO_MAX_BYTES} bytes of JSON.")
    return encoded


def own_name(name: str, principal: Principal) -> str:
    """As whom a caller stands in a topic. Raises ApiError 400 where nobody stands anywhere, 403 for who is no user."""
    if not resolve(name).tells_me:
        raise ApiError(400, "malformed", "me: only boards take it.")
    return principal.require_user()


class Logs:
    """Where the truth about every topic is read: in the log of its class, or else in REALTIME_LOG."""

    def __init__(self) -> None:
        self._stored: Log = import_string(settings.REALTIME_LOG)()

    async def positions(self, names: Sequence[str]) -> Mapping[str, Position]:
        logs: dict[Log, list[str]] = {}
        for name in names:
            logs.setdefault(self._of(name), []).append(name)
        found: dict[str, Position] = {}
        for log, some in logs.items():
            found |= await log.positions(some)
        return found

    async def read(self, name: str, after: int, limit: int) -> Page:
        return await self._of(name).read(name, after, limit)

    def _of(self, name: str) -> Log:
        return resolve(name).log or self._stored


@cache
def _kinds() -> dict[str, Topic]:
    return {kind: import_string(path)() for kind, path in settings.REALTIME_TOPICS.items()}
