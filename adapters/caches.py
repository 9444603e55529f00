"""The caches of EVENTS_CACHES: bytes under keys of bytes, apart from Django's own cache.

What is in them may be gone at any time, as with every cache. Changes of one key are made one after the other. One that
has a cause (an event, which may come late or twice) is passed over where a later one has been made already.
"""

import base64
import binascii
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache as cached
from functools import lru_cache
from typing import Any, Literal, Protocol

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.exceptions import LockError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry

from accounts.errors import ApiError
from accounts.requests import wrong

KEY_MAX_BYTES = 1024
VALUE_MAX_BYTES = 1024 * 1024
TTL_MAX = 365 * 24 * 3600  # Seconds.
TOMBSTONE_SECONDS = 24 * 3600  # For so long EventBridge brings events, and it is known here when a key was changed.
CAUSES_KEPT = 100  # Of one moment.
ANSWER_SECONDS = 1.0  # For Redis to answer, and to take a connection.
PAUSE_SECONDS = 1.0  # For which it is not asked after it did not.
LOCK_SECONDS, LOCK_WAIT_SECONDS, LOCK_LOOK_SECONDS = 10.0, 2.0, 0.01

_silent_until: dict[str, float] = {}  # By URL.


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object of EVENTS_CACHES, as it is written."""

    backend: Literal["redis", "momento"] = "redis"
    topics: Literal["topic", "user"] = "topic"


@dataclass(frozen=True, slots=True)
class Cache:
    """`topics`: the kind of topic that is meant where this cache's topics are named."""

    name: str
    backend: str
    topics: str

    def topic(self, name: str) -> str:
        return f"{self.topics}.{name}"


@dataclass(frozen=True, slots=True)
class Cause:
    """The event that a change comes from: when it happened, in epoch seconds, and its id."""

    at: float
    id: str


class Item(msgspec.Struct, frozen=True):
    """What is under a key, and for how many seconds more."""

    value: bytes
    ttl: float


class Store(Protocol):
    """Where a cache has its bytes. Raises ApiError with `retry_after` while it does not answer."""

    def get(self, key: bytes, /) -> Item | None: ...

    def set(self, key: bytes, value: bytes, ttl: int, /) -> None: ...

    def delete(self, key: bytes, /) -> None: ...


# --- Which there are ------------------------------------------------------------------------------


def find(name: str) -> Cache:
    """Raises ApiError 404."""
    if cache := _read_once(msgspec.json.encode(settings.EVENTS_CACHES)).get(name):
        return cache
    raise ApiError(404, "unknown_cache", f"There is no cache {name[:100]!r} (EVENTS_CACHES).")


@lru_cache(maxsize=8)
def _read_once(text: bytes) -> Mapping[str, Cache]:
    return read(msgspec.json.decode(text))


def read(value: Any) -> dict[str, Cache]:
    """The caches by name. Raises ImproperlyConfigured, which says where and what."""
    if not isinstance(value, dict):
        raise ImproperlyConfigured("EVENTS_CACHES is a JSON object: caches by their names.")
    found = {}
    for name, item in value.items():
        try:
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
                raise ValueError("a name has 1-100 letters, digits, -, _ and dots.")
            entry = msgspec.convert(item, Entry, strict=True)
        except ValueError as error:  # msgspec's are some too.
            raise ImproperlyConfigured(f"EVENTS_CACHES, {name[:100]!r}: {error}") from None
        found[name] = Cache(name, entry.backend, entry.topics)
    return found


# --- Reading and changing -------------------------------------------------------------------------


def get(cache: Cache, key: bytes) -> Item | None:
    """Raises ApiError 503."""
    with _answering():
        return _store(cache).get(key)


def put(cache: Cache, key: bytes, value: bytes, ttl: int, cause: Cause | None = None) -> bool:
    """Keeps a value for `ttl` seconds -> whether it did, or a later change has been made. Raises ApiError 413, 503."""
    if len(value) > VALUE_MAX_BYTES:
        raise ApiError(413, "too_large", f"A value has {VALUE_MAX_BYTES} bytes at most: cache a link.")
    return _change(cache, key, cause, max(ttl, TOMBSTONE_SECONDS), lambda store: store.set(key, value, ttl))


def delete(cache: Cache, key: bytes, cause: Cause | None = None) -> bool:
    """-> whether it did, or a later change has been made. Raises ApiError 503."""
    return _change(cache, key, cause, TOMBSTONE_SECONDS, lambda store: store.delete(key))


def key_of(key: str | None, key_base64: str | None, at: str = "") -> bytes:
    """The key, of which one form is given. Raises ApiError 400."""
    if (key is None) == (key_base64 is None):
        raise wrong(f"{at}key", "either key or key_base64")
    found = key.encode() if key is not None else _from_base64(key_base64 or "", f"{at}key_base64")
    if not 1 <= len(found) <= KEY_MAX_BYTES:
        raise wrong(f"{at}key", f"1-{KEY_MAX_BYTES} bytes")
    return found


def _from_base64(text: str, field: str) -> bytes:
    try:
        plain = text.rstrip("=").translate({ord("+"): "-", ord("/"): "_"})
        return base64.b64decode(plain.encode("ascii") + b"=" * (-len(plain) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise wrong(field, "URL-safe base64") from None


# --- In order -------------------------------------------------------------------------------------


class _Mark(msgspec.Struct):
    """When what a key was last changed by happened, and what of that moment has been made."""

    at: float = 0.0
    causes: list[str] = []

    def is_past(self, cause: Cause) -> bool:
        return cause.at < self.at or (cause.at == self.at and cause.id in self.causes)

    def after(self, cause: Cause | None, now: float) -> "_Mark":
        if cause is None:  # EventBridge tells whole seconds: what happens in this one comes after.
            return _Mark(max(float(math.floor(now)), self.at), self.causes)
        return _Mark(cause.at, [*(self.causes if cause.at == self.at else ()), cause.id][-CAUSES_KEPT:])


def _change(cache: Cache, key: bytes, cause: Cause | None, kept: int, make: Callable[[Store], None]) -> bool:
    """The mark is kept for `kept` seconds. A change that fails half-way is made again when it comes again."""
    with _answering():
        redis, now = _redis(), time.time()
        if cause is not None and cause.at > now:  # A clock that is fast must not shut out all that comes after.
            cause = Cause(now, cause.id)
        name = f"{cache.name}:{key.hex()}"
        with redis.lock(
            f"fanfare:cache-lock:{name}",
            timeout=LOCK_SECONDS,
            blocking_timeout=LOCK_WAIT_SECONDS,
            sleep=LOCK_LOOK_SECONDS,
            thread_local=False,
        ):
            text = redis.get(f"fanfare:cache-mark:{name}")
            mark = msgspec.json.decode(text, type=_Mark) if text else _Mark()
            if cause is not None and mark.is_past(cause):
                return False
            make(_store(cache))
            redis.set(f"fanfare:cache-mark:{name}", msgspec.json.encode(mark.after(cause, now)), ex=kept)
    return True


@contextmanager
def _answering() -> Iterator[None]:
    """Redis's errors as ApiError 503: `busy` says something of this key only, `unavailable` of all."""
    url = settings.REDIS_URL
    try:
        if time.monotonic() < _silent_until.get(url, 0.0):
            raise RedisError("Redis did not answer a moment ago")  # Nobody waits in line for it.
        yield
    except LockError as error:
        raise ApiError(503, "busy", "This key is being changed: try again.", retry_after=1) from error
    except (RedisError, OSError) as error:
        if isinstance(error, RedisTimeout):
            _silent_until[url] = time.monotonic() + PAUSE_SECONDS
        raise ApiError(503, "unavailable", "The cache does not answer: try again.", retry_after=2) from error


# --- Where the bytes are --------------------------------------------------------------------------


class RedisStore:
    def __init__(self, name: str) -> None:
        self._prefix = f"fanfare:cache:{name}:".encode()

    def get(self, key: bytes) -> Item | None:
        with _redis().pipeline() as pipe:
            pipe.get(self._prefix + key)
            pipe.pttl(self._prefix + key)
            value, ttl = pipe.execute()
        return None if value is None else Item(value, max(ttl, 0) / 1000)

    def set(self, key: bytes, value: bytes, ttl: int) -> None:
        _redis().set(self._prefix + key, value, ex=ttl)

    def delete(self, key: bytes) -> None:
        _redis().delete(self._prefix + key)


STORES = {"redis": "adapters.caches.RedisStore", "momento": "adapters.momento.store.MomentoStore"}


@cached
def _store(cache: Cache) -> Store:
    make: Callable[[str], Store] = import_string(STORES[cache.backend])
    return make(cache.name)


def _redis() -> Redis:
    return _client(settings.REDIS_URL)


@cached
def _client(url: str) -> Redis:
    return Redis.from_url(
        url, socket_timeout=ANSWER_SECONDS, socket_connect_timeout=ANSWER_SECONDS, retry=Retry(NoBackoff(), 0)
    )
