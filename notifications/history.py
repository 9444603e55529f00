"""Reading the log, and taking messages back out of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from accounts.errors import ApiError
from notifications.log import message_event, with_exclusions
from notifications.models import Message, Receipt, Topic
from realtime import bus, protocol
from realtime.frames import Event
from realtime.log import Page, Position

RECALL_AT_ONCE = 1000

MISSING = Position(None, 0)


def visible() -> Q:
    """Messages that readers may see now: in the log, not expired, not recalled."""
    return Q(offset__isnull=False, recalled_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now()))


def positions(names: Sequence[str]) -> dict[str, Position]:
    """Where each of these topics stands, in one query."""
    found = {
        name: Position(epoch, head)
        for name, epoch, head in Topic.objects.filter(name__in=names).values_list("name", "epoch", "head")
    }
    return {name: found.get(name, MISSING) for name in names}


def read(name: str, after: int, limit: int) -> Page:
    """What a topic holds after an offset, as events with the users they are not for."""
    topic = Topic.objects.filter(name=name).first()
    if topic is None:
        return Page(None, 0, 1, 0, ())
    messages, through = _messages_after(topic, after, limit)
    events = [message_event(message, name, topic.epoch) for message in messages]
    tail = _tail(topic, after, messages, through)
    return Page(topic.epoch, topic.head, tail, through, with_exclusions(messages, events))


def _messages_after(topic: Topic, after: int, limit: int, hide: Q | None = None) -> tuple[list[Message], int]:
    """Visible messages, oldest first, and how far they reach. The head was read first: what is below it is there."""
    messages = list(
        Message.objects.filter(visible(), topic=topic, offset__gt=after, offset__lte=topic.head)
        .exclude(hide or Q(pk__in=[]))
        .order_by("offset")[:limit]
    )
    full = len(messages) == limit and messages[-1].offset is not None
    return messages, (messages[-1].offset or 0) if full else topic.head


def _tail(topic: Topic, after: int, messages: Sequence[Message], through: int) -> int:
    """The tail, read again after the messages where some are missing: they may have been purged in between."""
    if len(messages) == through - after:
        return topic.tail
    return next(iter(Topic.objects.filter(pk=topic.pk).values_list("tail", flat=True)), topic.head + 1)


def topic_page(name: str, since: int, limit: int, reader: str | None) -> dict[str, Any]:
    """A topic's messages after `since` as `reader` may see them -> `{messages, epoch, head, tail}`."""
    topic = Topic.objects.filter(name=name).first()
    if topic is None:
        return {"messages": [], "epoch": None, "head": 0, "tail": 1}
    messages, through = _messages_after(topic, since, limit, _not_for(reader))
    return {
        "messages": [as_dict(message, name) for message in messages],
        "epoch": topic.epoch,
        "head": topic.head,
        "tail": _tail(topic, since, messages, through),
    }


def search(
    name: str,
    *,
    start: datetime,
    end: datetime,
    types: Sequence[str],
    text: str,
    reader: str | None,
    before: tuple[datetime, int] | None,
    limit: int,
) -> tuple[list[dict[str, Any]], tuple[datetime, int] | None]:
    """A topic's messages from `start` to `end`, newest first -> (messages, where the next page begins)."""
    found: QuerySet[Message] = Message.objects.filter(
        visible(), topic__name=name, created_at__gte=start, created_at__lte=end
    ).exclude(_not_for(reader))
    if types:
        found = found.filter(type__in=types)
    if text:
        found = found.filter(data__icontains=text)
    if before:
        moment, offset = before
        found = found.filter(Q(created_at__lt=moment) | Q(created_at=moment, offset__lt=offset), created_at__lte=moment)
    messages = list(found.order_by("-created_at", "-offset")[: limit + 1])
    more = len(messages) > limit
    messages = messages[:limit]
    last = messages[-1] if more else None
    return [as_dict(message, name) for message in messages], (last.created_at, last.offset or 0) if last else None


def get(message_id: UUID) -> Message:
    """Raises ApiError 404 for a message that never was or is purged."""
    message = Message.objects.filter(pk=message_id).select_related("topic").first()
    if message is None:
        raise ApiError(404, "unknown_message", "There is no message with this id.")
    return message


def is_visible(message: Message) -> bool:
    """What `visible` asks, of a message that is read already."""
    expired = message.expires_at is not None and message.expires_at <= timezone.now()
    return message.offset is not None and message.recalled_at is None and not expired


def is_for(message: Message, reader: str) -> bool:
    """Whether a user who may read the topic may see this message."""
    excluded = Receipt.objects.filter(message=message, user=reader, excluded=True)
    return not (message.has_exclusions and excluded.exists())


def recall(found: QuerySet[Message]) -> list[str]:
    """Takes messages back, RECALL_AT_ONCE at most -> the ids of those that were not recalled before.

    They leave every log and inbox at once; what is scheduled is not sent. Listeners get `recalled` events.
    """
    with transaction.atomic():
        chosen = found.filter(recalled_at=None).select_related("topic").order_by("id")
        messages = list(chosen.select_for_update(of=("self",))[:RECALL_AT_ONCE])
        Message.objects.filter(pk__in=[message.pk for message in messages]).update(recalled_at=timezone.now())
        events = [
            Event(
                message.topic.name,
                protocol.recalled(message.topic.name, message.offset, str(message.id)),
                recalls=message.offset,
            )
            for message in messages
            if message.offset is not None
        ]
        transaction.on_commit(lambda: bus.publish(events), robust=True)
    return [str(message.id) for message in messages]


def as_dict(message: Message, topic: str) -> dict[str, Any]:
    """A message as the API shows it; its data goes out as it came in."""
    shown: dict[str, Any] = {
        "id": str(message.id),
        "topic": topic,
        "offset": message.offset,
        "type": message.type,
        "data": msgspec.Raw(message.data.encode()),
        "created_at": message.created_at,
        "expires_at": message.expires_at,
    }
    if message.sender:
        shown["sender"] = message.sender
    return shown


def _not_for(reader: str | None) -> Q:
    if reader is None:
        return Q(pk__in=[])
    # Not `receipt__…`: in `exclude` two such conditions may hold for two different receipts.
    return Q(has_exclusions=True) & Q(
        Exists(Receipt.objects.filter(message=OuterRef("pk"), user=reader, excluded=True))
    )
