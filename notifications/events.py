"""Events of EventBridge: they change caches, publish to topics and notify. The ingest kind `eventbridge`.

Each takes effect once, however often it comes; those for one key of a cache in the order in which they happened.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from django.db import transaction
from msgspec import UNSET, UnsetType

from accounts import idempotency
from accounts.errors import ApiError
from accounts.requests import shaped, wrong
from adapters import caches
from adapters.caches import Cache, Cause
from adapters.ingest import Outcome, Record
from adapters.ingest_settings import Source
from notifications.event_shapes import CacheDelete, CacheSet, Event, TopicPublish
from notifications.ingest import claim_of, in_words_for_records, send, value_of
from notifications.shapes import Notification, Target


@dataclass(frozen=True, slots=True)
class Change:
    """What an event says of one key: a value for `ttl` seconds, or none."""

    cache: Cache
    key: bytes
    at: float
    value: bytes | None = None
    ttl: int = 0

    def make(self, cause: str) -> None:
        """Nothing, where a later change has been made. Raises ApiError 413, 503."""
        if self.value is None:
            caches.delete(self.cache, self.key, Cause(self.at, cause))
        else:
            caches.put(self.cache, self.key, self.value, self.ttl, Cause(self.at, cause))


Found = Change | list[Notification] | ApiError


def eventbridge(source: Source, records: Sequence[Record]) -> Sequence[Outcome]:
    """An event of EventBridge; its `detail-type` says what the detail is.

    Caches are changed before messages go out: who hears of a change finds it there.
    """
    found = [(record, _read(record)) for record in records]
    changed = iter(_change(source, [(record, one) for record, one in found if isinstance(one, Change)]))
    sent = iter(send(source, [(record, one) for record, one in found if not isinstance(one, Change)]))
    return [next(changed if isinstance(one, Change) else sent) for _record, one in found]


# --- What an event says ---------------------------------------------------------------------------


def _read(record: Record) -> Found:
    try:
        event = shaped(value_of(record), Event)
        if event.detail_type not in DETAILS:
            raise wrong("detail-type", f"one of {', '.join(DETAILS)}")
        return DETAILS[event.detail_type](event)
    except ApiError as error:
        return error


def _notify(event: Event) -> Found:
    return [shaped(event.detail, Notification, at="detail")]


def _topic_publish(event: Event) -> Found:
    wanted = shaped(event.detail, TopicPublish, at="detail")
    return [published(caches.find(wanted.cacheName), wanted.topicName, wanted.message)]


def published(cache: Cache, topic: str, data: Any) -> Notification:
    """What is published to a topic of a cache, as a notification."""
    return Notification(Target(user=topic) if cache.topics == "user" else Target(topic=topic), data)


def _cache_set(event: Event) -> Found:
    wanted = shaped(event.detail, CacheSet, at="detail")
    message = wanted.message
    value = message.encode() if isinstance(message, str) else msgspec.json.encode(message)
    return Change(*_place(event, wanted), value, wanted.ttl)


def _cache_delete(event: Event) -> Found:
    return Change(*_place(event, shaped(event.detail, CacheDelete, at="detail")))


def _place(event: Event, wanted: CacheDelete) -> tuple[Cache, bytes, float]:
    key = caches.key_of(_given(wanted.key), _given(wanted.key_base64), at="detail.")
    happened_at = event.happened_at
    return caches.find(wanted.cacheName), key, time.time() if happened_at is None else happened_at


def _given(text: str | UnsetType) -> str | None:
    return None if text is UNSET else text


DETAILS: Mapping[str, Callable[[Event], Found]] = {
    "notify": _notify,
    "topicPublish": _topic_publish,
    "cacheSet": _cache_set,
    "cacheDelete": _cache_delete,
}


# --- Caches ---------------------------------------------------------------------------------------


def _change(source: Source, changes: Sequence[tuple[Record, Change]]) -> list[Outcome]:
    """Makes changes in their order -> an outcome for each.

    No transaction waits for a cache: claims are taken before, and kept after. Whoever dies in between makes the same
    change again. What fails for now holds back what comes after it: for its key, or for all of a cache that is down.
    """
    if not changes:
        return []
    claims = [claim_of(source, record) for record, _change in changes]
    with transaction.atomic():
        rows = idempotency.take(claims)
    outcomes: list[Outcome] = []
    held: dict[Any, ApiError] = {}
    for claim, (record, change) in zip(claims, changes, strict=True):
        row = rows[claim]
        if isinstance(row, ApiError):
            outcomes.append(in_words_for_records(row))
            continue
        error = None if row.reply else held.get(change.cache) or held.get((change.cache, change.key))
        if not row.reply and error is None:
            error = _made(change, record.key)
        if error is None:
            row.reply = "[]"
        elif error.retry_after is not None:
            held[change.cache if error.code == "unavailable" else (change.cache, change.key)] = error
        outcomes.append([] if error is None else error)
    with transaction.atomic():
        idempotency.keep(row for row in rows.values() if not isinstance(row, ApiError) and row.reply)
    return outcomes


def _made(change: Change, cause: str) -> ApiError | None:
    try:
        change.make(cause)
    except ApiError as error:
        return error
    return None
