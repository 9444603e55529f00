"""A user's inbox: the union of their own topic, their account's and `all`, with what they have done with each message.

Nothing is written for those who only receive. Whether a message is seen, read or archived follows from the user's
marker in its topic, one row for any number of messages, and from receipts for single messages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, cast

import msgspec
from django.conf import settings
from django.db.models import Case, Count, F, FilteredRelation, Q, QuerySet, Sum, When

from accounts.models import User
from notifications.history import as_dict, visible
from notifications.models import Marker, Message, Topic

COUNTED = 1000  # Exactly; beyond, there are more.
ALL = "all"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page of an inbox ends: newest first, and of the same moment by source and offset."""

    moment: datetime
    rank: int
    offset: int


@dataclass(frozen=True, slots=True)
class Source:
    """One of the topics that an inbox is made of, and how far its user has come in it."""

    rank: int
    topic: Topic
    since: datetime | None  # Older messages were there before the user was.
    marker: Marker

    def messages(self) -> QuerySet[Message]:
        """Those for this user, each with `mine`, the user's receipt, where there is one."""
        mine = FilteredRelation("receipts", condition=Q(receipts__user=self.marker.user))
        found = Message.objects.annotate(mine=mine).filter(visible(), topic=self.topic)
        found = found.filter(Q(mine__pk=None) | Q(mine__excluded=False))
        return found if self.since is None else found.filter(created_at__gte=self.since)

    def unarchived(self) -> Q:
        return Q(mine__archived_at=None, offset__gt=self.marker.archived_to)

    def archived(self) -> Q:
        return Q(mine__archived_at__isnull=False) | Q(offset__lte=self.marker.archived_to)

    def unread(self) -> Q:
        return Q(mine__read_at=None) & (Q(offset__gt=self.marker.read_to) | Q(mine__unread=True))

    def read(self) -> Q:
        return Q(mine__read_at__isnull=False) | (
            Q(offset__lte=self.marker.read_to) & (Q(mine__pk=None) | Q(mine__unread=False))
        )

    def unseen(self) -> Q:
        seen_to = max(self.marker.seen_to, self.marker.read_to)
        return Q(mine__seen_at=None, mine__read_at=None, offset__gt=seen_to) & (
            Q(mine__pk=None) | Q(mine__unread=False)  # What is unread again was seen.
        )

    def after(self, place: Place) -> Q:
        """What comes after a place: older."""
        if self.rank > place.rank:
            return Q(created_at__lte=place.moment)
        older = Q(created_at__lt=place.moment)
        return older if self.rank < place.rank else older | Q(created_at=place.moment, offset__lt=place.offset)

    def shown(self, message: Message) -> dict[str, Any]:
        """A message as the API shows it; for what the marker says, the time when it was moved there."""
        marker, mine, offset = self.marker, cast(Any, message), message.offset or 0
        read_at = mine.my_read_at or (marker.read_at if offset <= marker.read_to and not mine.my_unread else None)
        seen_at = mine.my_seen_at or (marker.seen_at if offset <= marker.seen_to else None) or read_at
        archived_at = mine.my_archived_at or (marker.archived_at if offset <= marker.archived_to else None)
        shown = as_dict(message, self.topic.name)
        return shown | {"seen_at": seen_at, "read_at": read_at, "archived_at": archived_at}


class Counts(msgspec.Struct, frozen=True):
    """How many messages wait; exactly, up to COUNTED."""

    unread: int
    unseen: int
    unread_more: bool


@dataclass(frozen=True, slots=True)
class Inbox:
    """One user's inbox, as it was when it was opened."""

    user: str
    sources: Sequence[Source] = ()

    @classmethod
    def open(cls, user: str, *, lock: bool = False) -> Self:
        """`lock`: nobody else changes this inbox until the transaction ends."""
        rows = User.objects.filter(pk=user)
        row = (rows.select_for_update() if lock else rows).first()
        if row is None:
            return cls(user)
        names = {f"user.{user}": 0, ALL: 2}
        if row.account_id is not None:
            names[f"account.{row.account_id}"] = 1
        topics = list(Topic.objects.filter(name__in=names))
        markers = {marker.topic_id: marker for marker in Marker.objects.filter(user=user, topic__in=topics)}
        return cls(
            user,
            [
                Source(
                    names[topic.name],
                    topic,
                    _since(row, names[topic.name]),
                    markers.get(topic.pk) or Marker(user=user, topic=topic),
                )
                for topic in topics
            ],
        )

    def counts(self) -> Counts:
        found = [_count(source) for source in self.sources]
        unread, unseen = sum(one for one, _ in found), sum(one for _, one in found)
        return Counts(min(unread, COUNTED), min(unseen, COUNTED), unread > COUNTED)

    def page(
        self, wanted: Q, *, limit: int, before: Place | None = None, unread: bool = False, archived: bool = False
    ) -> tuple[list[dict[str, Any]], Place | None]:
        """Messages, newest first -> (as the API shows them, where the next page begins)."""
        found: list[tuple[Place, Message, Source]] = []
        for source in self.sources:
            state = source.archived() if archived else source.unarchived()
            rows = source.messages().filter(wanted, state)
            if unread:
                rows = rows.filter(source.unread())
            if before:
                rows = rows.filter(source.after(before), created_at__lte=before.moment)
            for message in with_receipts(rows).order_by("-created_at", "-offset")[: limit + 1]:
                found.append((Place(message.created_at, source.rank, message.offset or 0), message, source))
        found.sort(key=lambda item: (item[0].moment, -item[0].rank, item[0].offset), reverse=True)
        page = found[:limit]
        end = page[-1][0] if len(found) > limit else None
        return [source.shown(message) for _place, message, source in page], end


def with_receipts(rows: QuerySet[Message]) -> QuerySet[Message]:
    """The messages with what the user's receipts say of them."""
    return rows.annotate(
        my_seen_at=F("mine__seen_at"),
        my_read_at=F("mine__read_at"),
        my_archived_at=F("mine__archived_at"),
        my_unread=F("mine__unread"),
    )


def _since(user: User, rank: int) -> datetime | None:
    """Shared topics begin for a user when they come: first seen at all, and in this account."""
    if rank == 0 or not settings.INBOX_FROM_FIRST_SEEN:
        return None
    return max(user.created_at, user.moved_at) if rank == 1 and user.moved_at else user.created_at


def _count(source: Source) -> tuple[int, int]:
    """How many are unread, and how many of these unseen, each up to one more than COUNTED; mostly in one query."""
    waiting = source.messages().filter(source.unarchived(), source.unread())
    fresh = Case(When(source.unseen(), then=1), default=0)
    some = waiting.annotate(fresh=fresh).order_by("-offset").values("fresh")[: COUNTED + 1]
    found = some.aggregate(unread=Count("*"), unseen=Sum("fresh", default=0))
    if found["unread"] > COUNTED:
        found["unseen"] = waiting.filter(source.unseen()).values("pk")[: COUNTED + 1].count()
    return found["unread"], found["unseen"]
