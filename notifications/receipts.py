"""What users do with their messages: seen, read, unread again, archived. Each change goes live to all their devices."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import Max, Q
from django.utils import timezone

from notifications.inbox import Counts, Inbox, Source
from notifications.models import Message, Receipt
from realtime import bus, protocol
from realtime.frames import Event

IDS_MAX = 1000
RECEIPTED_MAX = 1000  # Ids in a reply; a marker moves past any number.


class Deed(StrEnum):
    SEEN = "seen"
    READ = "read"
    UNREAD = "unread"
    ARCHIVE = "archive"


@dataclass(frozen=True, slots=True)
class Done:
    """The ids that were changed now, the newest RECEIPTED_MAX of them, and what is left."""

    receipted: Sequence[str]
    counts: Counts


def receipt(user: str, deed: Deed, ids: Sequence[UUID]) -> Done:
    """Does it to single messages. Those that are not in the inbox, or are so already, are not changed."""
    with transaction.atomic():
        inbox = Inbox.open(user, lock=True)
        changed: list[Message] = []
        for source in inbox.sources:
            changed += source.messages(_undone(source, deed), Q(pk__in=ids)).only("pk")
        now = timezone.now()
        Receipt.objects.bulk_create(
            [Receipt(message=message, user=user, **_marks(deed, now)) for message in changed],
            update_conflicts=True,
            unique_fields=["message", "user"],
            update_fields=list(_marks(deed, now)),
            batch_size=1000,
        )
        return _tell(inbox, deed, [str(message.pk) for message in changed])


def receipt_all(user: str, deed: Deed, as_of: datetime | None = None) -> Done:
    """Does it to all, or to all until a moment, by moving markers: nothing is written for a single message.

    Raises ValueError for UNREAD, which is for single messages.
    """
    if deed is Deed.UNREAD:
        raise ValueError("unread is for single messages")
    with transaction.atomic():
        inbox = Inbox.open(user, lock=True)
        changed: list[UUID] = []
        for source in inbox.sources:
            until = _offset_at(source, as_of)
            for part in source.unread() if deed is Deed.READ else [_undone(source, deed)]:
                undone = source.messages(part, Q(offset__lte=until)).order_by("-offset")
                changed += undone.values_list("pk", flat=True)[: RECEIPTED_MAX - len(changed)]
            _move(source, deed, until)
        return _tell(inbox, deed, [str(pk) for pk in changed])


def _undone(source: Source, deed: Deed) -> Q:
    """Messages that the deed would change."""
    match deed:
        case Deed.SEEN:
            return source.never("archived", "seen")
        case Deed.READ:
            return reduce(or_, source.unread())
        case Deed.UNREAD:
            return source.read()
        case Deed.ARCHIVE:
            return source.never("archived")


def _marks(deed: Deed, now: datetime) -> dict[str, Any]:
    match deed:
        case Deed.SEEN:
            return {"seen_at": now}
        case Deed.READ:
            return {"read_at": now, "unread": False}
        case Deed.UNREAD:
            return {"read_at": None, "unread": True}
        case Deed.ARCHIVE:
            return {"archived_at": now}


def _offset_at(source: Source, as_of: datetime | None) -> int:
    if as_of is None:
        return source.topic.head
    until = Message.objects.filter(topic=source.topic, created_at__lte=as_of, offset__isnull=False)
    return until.aggregate(last=Max("offset"))["last"] or 0


def _move(source: Source, deed: Deed, until: int) -> None:
    """Moves the marker, and settles what receipts below it said otherwise."""
    marker, now = source.marker, timezone.now()
    name = {Deed.SEEN: "seen", Deed.READ: "read", Deed.ARCHIVE: "archived"}[deed]
    if deed is Deed.READ:
        again = Receipt.objects.filter(user=marker.user, message__topic=source.topic, message__offset__lte=until)
        again.filter(unread=True).update(unread=False, read_at=now)
    if until > getattr(marker, f"{name}_to"):
        setattr(marker, f"{name}_to", until)
        setattr(marker, f"{name}_at", now)
        marker.save()


def _tell(inbox: Inbox, deed: Deed, ids: list[str]) -> Done:
    """The counts as they are now; where something was changed, they go to all of the user's connections."""
    counts = inbox.counts()
    if ids:
        name = f"user.{inbox.user}"
        bodies = [protocol.receipt(deed, ids), protocol.unread(**msgspec.structs.asdict(counts))]
        if deed is Deed.READ and settings.MESSAGE_READ_RECEIPTS:
            bodies.append(protocol.message_read_receipt(inbox.user, ids))
        transaction.on_commit(lambda: bus.publish([Event(name, body) for body in bodies]), robust=True)
    return Done(ids, counts)
