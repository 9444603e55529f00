"""Django's cache in a cache of Momento's.

CACHES = {"default": {"BACKEND": "adapters.momento.cache.MomentoCache", "LOCATION": "fanfare-prod-django"}}
"""

import hashlib
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core.cache.backends.base import DEFAULT_TIMEOUT, BaseCache

from adapters.momento.clients import Calls, Failed, calls

KEY_BYTES_MAX = 250
ITEMS_A_CALL = 500
BYTES_A_CALL = 4 * 1024 * 1024  # Or one item.
_NUMBER = re.compile(rb"0|-?[1-9][0-9]{0,17}")
_PICKLED = b"\x80"  # The first byte of every pickle.


class MomentoCache(BaseCache):
    """Numbers and bytes are stored as they are, everything else pickled: only this service may write into the cache.

    What never expires, or later than MOMENTO_TTL_MAX, expires then. `clear` empties the whole cache of this name, also
    of what others keep in it. Raises Failed where Momento does not answer as it should, and Misconfigured.
    """

    def __init__(self, name: str, params: dict[str, Any]) -> None:
        super().__init__(params)
        self._name = name
        options = params.get("OPTIONS", {})
        self._longest = float(options.get("ttl_max", settings.MOMENTO_TTL_MAX))

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        from momento_wire_types import cacheclient_pb2 as wire

        milliseconds = self._milliseconds(timeout)
        if milliseconds <= 0:
            return not self.has_key(key, version)
        absent = wire._SetIfRequest(
            cache_key=self._key(key, version), cache_body=_dump(value), ttl_milliseconds=milliseconds
        )
        absent.absent.SetInParent()
        return bool(self._call("SetIf", absent).WhichOneof("result") == "stored")

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        from momento_wire_types import cacheclient_pb2 as wire

        answer = self._call("Get", wire._GetRequest(cache_key=self._key(key, version)))
        return _load(answer.cache_body) if answer.result == wire.Hit else default

    def set(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> None:
        self.set_many({key: value}, timeout, version)

    def touch(self, key: str, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        from momento_wire_types import cacheclient_pb2 as wire

        milliseconds = self._milliseconds(timeout)
        if milliseconds <= 0:
            return self.delete(key, version)
        request = wire._UpdateTtlRequest(cache_key=self._key(key, version), overwrite_to_milliseconds=milliseconds)
        return bool(self._call("UpdateTtl", request).WhichOneof("result") == "set")

    def ttl(self, key: str, version: int | None = None) -> float | None:
        """For how many seconds more it is there; none where it is not."""
        milliseconds = self._milliseconds_left(self._key(key, version))
        return None if milliseconds is None else milliseconds / 1000

    def delete(self, key: str, version: int | None = None) -> bool:
        """Whether it was there: of several at once, each may say so."""
        from momento_wire_types import cacheclient_pb2 as wire

        there = self.has_key(key, version)
        self._call("Delete", wire._DeleteRequest(cache_key=self._key(key, version)))
        return there

    def get_many(self, keys: Iterable[str], version: int | None = None) -> dict[str, Any]:
        from momento_wire_types import cacheclient_pb2 as wire

        wanted, found = list(keys), {}
        for some in _chunks(wanted):
            request = wire._GetBatchRequest(items=[wire._GetRequest(cache_key=self._key(key, version)) for key in some])
            for key, answer in zip(some, self._momento.batch(self._name, "GetBatch", request), strict=True):
                if answer.result == wire.Hit:
                    found[key] = _load(answer.cache_body)
        return found

    def set_many(
        self, data: Mapping[str, Any], timeout: Any = DEFAULT_TIMEOUT, version: int | None = None
    ) -> list[str]:
        from momento_wire_types import cacheclient_pb2 as wire

        milliseconds = self._milliseconds(timeout)
        if milliseconds <= 0:
            self.delete_many(data, version)
            return []
        items = (
            wire._SetRequest(cache_key=self._key(key, version), cache_body=_dump(value), ttl_milliseconds=milliseconds)
            for key, value in data.items()
        )
        for some in _batches(items):
            self._momento.batch(self._name, "SetBatch", wire._SetBatchRequest(items=some))
        return []

    def delete_many(self, keys: Iterable[str], version: int | None = None) -> None:
        from momento_wire_types import cacheclient_pb2 as wire

        for key in keys:
            self._call("Delete", wire._DeleteRequest(cache_key=self._key(key, version)))

    def has_key(self, key: str, version: int | None = None) -> bool:
        from momento_wire_types import cacheclient_pb2 as wire

        return bool(self._call("KeysExist", wire._KeysExistRequest(cache_keys=[self._key(key, version)])).exists[0])

    def incr(self, key: str, delta: int = 1, version: int | None = None) -> int:
        """Atomic, and keeps the time to live; a key that expires at this moment begins at 0 for a second."""
        from momento_wire_types import cacheclient_pb2 as wire

        name = self._key(key, version)
        left = self._milliseconds_left(name)
        if left is None:
            raise ValueError(f"Key {key!r} not found")
        milliseconds = max(left, 1000)
        try:
            request = wire._IncrementRequest(cache_key=name, amount=delta, ttl_milliseconds=milliseconds)
            return int(self._call("Increment", request).value)
        except Failed as error:
            if error.code not in ("FAILED_PRECONDITION", "INVALID_ARGUMENT"):
                raise
            raise ValueError(f"Key {key!r} has no whole number") from None

    def clear(self) -> None:
        from momento_wire_types import controlclient_pb2 as wire

        self._momento.control("FlushCache", wire._FlushCacheRequest(cache_name=self._name), self._name)

    def validate_key(self, key: str) -> None:
        """Every key will do."""

    @property
    def _momento(self) -> Calls:
        return calls()

    def _call(self, rpc: str, request: Any) -> Any:
        return self._momento.cache(self._name, rpc, request)

    def _key(self, key: str, version: int | None) -> bytes:
        name = self.make_and_validate_key(key, version=version).encode("utf-8", "surrogatepass")
        if len(name) <= KEY_BYTES_MAX:
            return name
        return b"sha256:" + hashlib.sha256(name).hexdigest().encode()

    def _milliseconds_left(self, name: bytes) -> int | None:
        from momento_wire_types import cacheclient_pb2 as wire

        left = self._call("ItemGetTtl", wire._ItemGetTtlRequest(cache_key=name))
        return int(left.found.remaining_ttl_millis) if left.WhichOneof("result") == "found" else None

    def _milliseconds(self, timeout: Any) -> int:
        """0 or less: it is over already."""
        seconds = self.default_timeout if timeout is DEFAULT_TIMEOUT else timeout
        return int(min(self._longest if seconds is None else float(seconds), self._longest) * 1000)


def _dump(value: Any) -> bytes:
    if type(value) is bytes and not value.startswith(_PICKLED) and not _NUMBER.fullmatch(value):
        return value
    if type(value) is int and _NUMBER.fullmatch(number := b"%d" % value):
        return number
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _load(stored: bytes) -> Any:
    if stored.startswith(_PICKLED):
        return pickle.loads(stored)  # noqa: S301 (ours)
    return int(stored) if _NUMBER.fullmatch(stored) else stored


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    """As many of them as a call takes."""
    batch: list[Any] = []
    size = 0
    for item in items:
        more = item.ByteSize()
        if batch and (len(batch) == ITEMS_A_CALL or size + more > BYTES_A_CALL):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += more
    if batch:
        yield batch


def _chunks(keys: Sequence[str]) -> Iterable[Sequence[str]]:
    return (keys[start : start + ITEMS_A_CALL] for start in range(0, len(keys), ITEMS_A_CALL))
