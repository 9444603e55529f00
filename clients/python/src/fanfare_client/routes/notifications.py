"""Sending, recalling, and reading the log."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from fanfare_client import calls
from fanfare_client.calls import Call, Page, Reply, given, moment, path
from fanfare_client.conversation import refusal
from fanfare_client.shapes import ItemResult, Message, MessageWithTimeline, Place, Sent

To = str | Mapping[str, Any]
"""Whom it is for: a user, or exactly one of `{"user"}`, `{"users": […]}`, `{"account"}`, `{"session"}`, `{"topic"}` and
`{"all": True}`."""


def notification(
    to: To,
    data: Any = None,
    type: str = "message",
    *,
    ttl: int | timedelta | None = None,
    send_at: datetime | None = None,
    key: str | None = None,
    store: bool = True,
    exclude_users: Iterable[str] = (),
) -> dict[str, Any]:
    """A notification, as `send` takes its fields and `send_batch` many of them.

    `ttl`: seconds until it expires. `key`: a label to recall it by. `store=False`: only for who listens now.
    """
    body = {"to": {"user": to} if isinstance(to, str) else to, "type": type, "data": data}
    body |= given(ttl=calls.seconds(ttl), send_at=moment(send_at) if send_at else None, key=key)
    excluded = list(exclude_users)
    return body | ({} if store else {"store": False}) | ({"exclude_users": excluded} if excluded else {})


def send(
    to: To,
    data: Any = None,
    type: str = "message",
    *,
    ttl: int | timedelta | None = None,
    send_at: datetime | None = None,
    key: str | None = None,
    store: bool = True,
    exclude_users: Iterable[str] = (),
    idempotency_key: str | None = None,
) -> Call[Sent]:
    """Returns once it is stored. It is stored once, however often the connection fails meanwhile."""
    body = notification(to, data, type, ttl=ttl, send_at=send_at, key=key, store=store, exclude_users=exclude_users)
    return calls.post_once(path("notifications"), _sent, body, idempotency_key)


def send_batch(
    notifications: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None
) -> Call[list[ItemResult]]:
    """Up to 1000 of what `notification` makes -> what became of each, in their order."""
    body = {"notifications": list(notifications)}
    return calls.post_once(path("notifications", "batch"), _batch, body, idempotency_key)


def read(id: str) -> Call[MessageWithTimeline]:
    """One message, and what happened to it."""
    return calls.get(path("notifications", id), calls.one(MessageWithTimeline))


def history(
    *,
    user: str | None = None,
    topic: str | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
    types: Sequence[str] | None = None,
    containing: str | None = None,
    page_size: int | None = None,
) -> Call[Page[Message]]:
    """What was sent to a user, or into a topic, newest first; of the last 7 days unless `start` and `end` are given.

    `page_size`: how many are fetched at a time.
    """
    return calls.get(
        path("notifications"),
        calls.page("messages", Message),
        user=user,
        topic=topic,
        start=start,
        end=end,
        type=types,
        q=containing,
        limit=page_size,
    )


def log(topic: str, *, since: int = 0, limit: int | None = None) -> Call[list[Message]]:
    """Messages of one topic after the offset `since`, oldest first: 25 of them, or `limit`, 1000 at most."""
    return calls.get(
        path("topics", topic, "messages"), calls.inside("messages", list[Message]), since=since, limit=limit
    )


def recall(id: str) -> Call[None]:
    """Takes a message back; again is no error."""
    return calls.delete(path("notifications", id), calls.nothing)


def recall_by_key(key: str, *, user: str | None = None) -> Call[list[str]]:
    """Takes back what was sent under this label -> the ids that were recalled now, 1000 at most."""
    return calls.delete(path("notifications"), calls.inside("recalled", list[str]), key=key, user=user)


def _sent(reply: Reply) -> Sent:
    replayed = reply.headers.get("idempotent-replayed") == "true"
    return Sent(messages=_places(msgspec.json.decode(reply.body)), replayed=replayed)


def _places(raw: Any) -> tuple[Place, ...]:
    if isinstance(raw, dict) and raw.get("messages"):
        return msgspec.convert(raw["messages"], tuple[Place, ...])
    return (msgspec.convert(raw, Place),)


def _batch(reply: Reply) -> list[ItemResult]:
    fields = msgspec.json.decode(reply.body, type=dict[str, Any])
    return [_item(item) for item in msgspec.convert(fields.get("results"), list[dict[str, Any]])]


def _item(item: dict[str, Any]) -> ItemResult:
    status = msgspec.convert(item.get("status"), int)
    if "error" in item:
        return ItemResult(status=status, error=refusal(Reply(status, {}, msgspec.json.encode(item))))
    return ItemResult(status=status, messages=_places(item))
