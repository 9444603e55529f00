"""What a Momento service remembers: caches with items that expire, topics with their recent past, and keys."""

import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import jwt
from momento_wire_types import permissionmessages_pb2 as permissions

from tests.emulators.momento_rights import may_do_everything

Value = str | bytes
MESSAGE_BYTES = 4096
ITEM_BYTES = 5 * 1024 * 1024
SIGNING_SECRET = "a secret of the emulator, for its own tokens only"


class Refused(Exception):
    """An answer other than the one asked for; `cause` travels as the trailer `err`."""

    def __init__(self, code: grpc.StatusCode, details: str, cause: str = "") -> None:
        super().__init__(details)
        self.code, self.details, self.cause = code, details, cause


@dataclass
class Item:
    """A value or a sorted set (scores by element) that is gone at `until`, in seconds of the store's clock."""

    value: bytes | dict[bytes, float]
    until: float


@dataclass
class Topic:
    """Messages by their number on the present page; `history` is what a subscriber may still resume from."""

    page: int = 1
    last: int = 0
    history: list[tuple[int, Value]] = field(default_factory=list)
    published: list[Value] = field(default_factory=list)


@dataclass
class Grant:
    """What a key or a token allows: None is everything. `until` is in seconds of the store's clock."""

    allowed: permissions.Permissions | None = None
    until: float = float("inf")


@dataclass
class Failure:
    """How calls of one RPC go wrong. `late` ones have had their effect."""

    code: grpc.StatusCode
    times: int | None
    cause: str
    late: bool


class Store:
    """Hold `changed` while reading or writing: it wakes who waits for messages."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.clear()

    def clear(self) -> None:
        with self.changed:
            self.moved = 0.0
            self.caches: dict[str, dict[bytes, Item]] = {}
            self.topics: dict[tuple[str, str], Topic] = defaultdict(Topic)
            self.grants: dict[str, Grant] = {}
            self.failures: dict[str, Failure] = {}
            self.delays: dict[str, float] = {}
            self.calls: Counter[str] = Counter()
            self.subscriptions: Counter[tuple[str, str]] = Counter()
            self.changed.notify_all()

    def now(self) -> float:
        """Epoch seconds, moved by the tests."""
        return time.time() + self.moved

    def new_grant(self, kind: str, allowed: permissions.Permissions | None, until: float = float("inf")) -> str:
        """A key (`kind` "g", as the SDK knows new ones by it) or a disposable token (`kind` "d")."""
        token = jwt.encode({"t": kind, "id": uuid.uuid4().hex}, SIGNING_SECRET, algorithm="HS256")
        with self.changed:
            self.grants[token] = Grant(allowed, until)
        return token

    def grant(self, token: str) -> Grant:
        with self.changed:
            grant = self.grants.get(token)
        if grant is None or grant.until <= self.now():
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "The token is unknown, revoked or expired", "invalid_token")
        return grant

    def only_with_everything(self, token: str) -> None:
        if not may_do_everything(self.grant(token).allowed):
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, "Only a key for everything may do this")

    @contextmanager
    def call(self, rpc: str) -> Iterator[None]:
        """One call, counted, delayed and failed as the tests ordered."""
        with self.changed:
            self.calls[rpc] += 1
            failure = self._take_failure(rpc)
            until = time.monotonic() + (self.delays.get(rpc) or self.delays.get("*") or 0)
            while self.delays and (left := until - time.monotonic()) > 0:
                self.changed.wait(left)
        if failure and not failure.late:
            raise Refused(failure.code, "As ordered by the test", failure.cause)
        yield
        if failure:
            raise Refused(failure.code, "As ordered by the test, after its effect", failure.cause)

    def _take_failure(self, rpc: str) -> Failure | None:
        for name in (rpc, "*"):
            failure = self.failures.get(name)
            if failure is None:
                continue
            if failure.times is not None:
                failure.times -= 1
                if failure.times <= 0:
                    del self.failures[name]
            return failure
        return None

    def cache(self, name: str) -> dict[bytes, Item]:
        """A cache's items, without those whose time has come."""
        items = self.caches.get(name)
        if items is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f"Cache not found: {name}", "cache_not_found")
        now = self.now()
        for key in [key for key, item in items.items() if item.until <= now]:
            del items[key]
        return items

    def publish(self, cache: str, topic: str, value: Value) -> None:
        size = len(value.encode() if isinstance(value, str) else value)
        if size > MESSAGE_BYTES:
            raise Refused(
                grpc.StatusCode.RESOURCE_EXHAUSTED, f"A message of {size} bytes", "request_size_limit_exceeded"
            )
        with self.changed:
            self.cache(cache)
            found = self.topics[cache, topic]
            found.last += 1
            found.history.append((found.last, value))
            found.published.append(value)
            self.changed.notify_all()

    def turn_page(self, cache: str, topic: str) -> None:
        """Numbers start again, and nothing before can be resumed from."""
        with self.changed:
            found = self.topics[cache, topic]
            found.page, found.last, found.history = found.page + 1, 0, []
            self.changed.notify_all()

    def forget(self, cache: str, topic: str) -> None:
        """The past is gone: who resumes in it sees a discontinuity."""
        with self.changed:
            self.topics[cache, topic].history.clear()
