"""A cache of EVENTS_CACHES in Momento's cache of the same name: bytes as its other clients read and write them."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from accounts.errors import ApiError
from adapters.base import Misconfigured
from adapters.caches import Item
from adapters.momento.clients import Failed, calls

logger = logging.getLogger(__name__)

OURS = b"fanfare:"  # What the keys of boards begin with, which may be in the same cache.


class MomentoStore:
    """What is to last longer than MOMENTO_TTL_MAX, which is Momento's own limit, lasts as long as that."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get(self, key: bytes) -> Item | None:
        from momento_wire_types import cacheclient_pb2 as wire

        with _answering(key):
            found = calls().cache(self._name, "Get", wire._GetRequest(cache_key=key))
            if found.result != wire.Hit:
                return None
            left = calls().cache(self._name, "ItemGetTtl", wire._ItemGetTtlRequest(cache_key=key))
        return Item(found.cache_body, left.found.remaining_ttl_millis / 1000)

    def set(self, key: bytes, value: bytes, ttl: int) -> None:
        from momento_wire_types import cacheclient_pb2 as wire

        milliseconds = int(min(ttl, settings.MOMENTO_TTL_MAX) * 1000)
        request = wire._SetRequest(cache_key=key, cache_body=value, ttl_milliseconds=milliseconds)
        with _answering(key):
            calls().cache(self._name, "Set", request)

    def delete(self, key: bytes) -> None:
        from momento_wire_types import cacheclient_pb2 as wire

        with _answering(key):
            calls().cache(self._name, "Delete", wire._DeleteRequest(cache_key=key))


@contextmanager
def _answering(key: bytes) -> Iterator[None]:
    """Whatever Momento says against our key or our cache, the caller cannot mend: it is for now, and in the log."""
    if key.startswith(OURS):
        raise ApiError(422, "refused", "key: those that begin with fanfare: are our own.")
    try:
        yield
    except (Failed, Misconfigured) as error:
        if isinstance(error, Failed) and error.code == "INVALID_ARGUMENT":
            raise ApiError(422, "refused", f"Momento takes no such key or value: {error}") from error
        logger.warning("A cache in Momento cannot be used: %s", error)
        raise ApiError(503, "unavailable", "The cache does not answer: try again.", retry_after=2) from error
