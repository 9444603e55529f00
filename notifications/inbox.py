"""A user's inbox: the union of their own topic, their account's and `all`, with what they have done with each message.

Nothing is written for those who only receive. Whether a message is seen, read or archived follows from the user's
marker in its topic, one row for any number of messages, and from receipts for single messages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Any, Self

import msgspec
from django.conf import settings
from django.db.models import (
    BooleanField,
    Case,
    Count,
    ExpressionWrapper,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    Value,
    When,
)
from django.db.models.functions import Coalesce

from accounts.models import User
from notifications import preferences
from notifications.history import as_dict, visible
from notifications.models import Marker, Message, Receipt, Topic
from realtime.mutes import NOTHING, Mute

COUNTED = 1000  # Exactly; beyond, there are more.
ALL = "all"
READ, ARCHIVED = Q(read_at__isnull=False), Q(archived_at__isnull=False)


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
    off: Mute = NOTHING  # Types that the user does not want. Messages to the user alone were judged when they came.

    def messages(self, *states: Q) -> QuerySet[Message]:
        """Those for this user in all of these states."""
        found = Message.objects.filter(visible(), *states, topic=self.topic)
        found = found.filter(Q(has_exclusions=False) | ~self._has_receipt(Q(excluded=True)))
        if self.off:
            named = Q(type__in=self.off.types)
            found = found.filter(named if self.off.all_but else ~named)
        return found if self.since is None else found.filter(created_at__gte=self.since)

    def states(self, *, unread: bool, archived: bool) -> list[Q]:
        """Messages that are archived or not, or of these the unread: in parts without overlap that an index finds."""
        again = Q(offset__lte=self.marker.read_to) & self._one_of(Q(unread=True))
        if not archived:
            return (
                [self.never("archived", "read"), self.never("archived") & again] if unread else [self.never("archived")]
            )
        archived_to, single = self.marker.archived_to, self._one_of(ARCHIVED)
        parts = [Q(offset__lte=archived_to), Q(offset__gt=archived_to) & single]
        return [part & state for part in parts for state in (self.never("read"), again)] if unread else parts

    def unread(self) -> list[Q]:
        """Whether archived or not, in such parts."""
        return [self.never("read"), Q(offset__lte=self.marker.read_to) & self._one_of(Q(unread=True))]

    def read(self) -> Q:
        below = Q(offset__lte=self.marker.read_to) & ~self._has_receipt(Q(unread=True))
        return below | self._has_receipt(READ)

    def never(self, *deeds: str) -> Q:
        """Above the user's markers of all these deeds, and without a receipt of any."""
        marker = self.marker
        passed = {"archived": marker.archived_to, "read": marker.read_to, "seen": max(marker.seen_to, marker.read_to)}
        told = {"archived": ARCHIVED, "read": READ, "seen": Q(seen_at__isnull=False) | READ | Q(unread=True)}
        receipt = self._has_receipt(reduce(or_, (told[deed] for deed in deeds)))
        return Q(offset__gt=max(passed[deed] for deed in deeds)) & ~receipt

    def _has_receipt(self, told: Q) -> Q:
        """For what few messages have not: looked up one by one, in the order that is asked for.

        Not by EXISTS: PostgreSQL would make a join of that, and one that compares all with all where its statistics
        do not yet know of the user's receipts.
        """
        mine = Receipt.objects.filter(message=OuterRef("pk"), user=self.marker.user)
        says = mine.values_list(ExpressionWrapper(told, BooleanField()))
        return Q(Coalesce(Subquery(says), Value(False)))

    def _one_of(self, told: Q) -> Q:
        """For what few messages have: found by the receipts."""
        return Q(pk__in=Receipt.objects.filter(told, user=self.marker.user).values("message"))

    def after(self, place: Place) -> Q:
        """What comes after a place: older."""
        if self.rank > place.rank:
            return Q(created_at__lte=place.moment)
        older = Q(created_at__lt=place.moment)
        return older if self.rank < place.rank else older | Q(created_at=place.moment, offset__lt=place.offset)

    def shown(self, message: Message, mine: Receipt | None) -> dict[str, Any]:
        """A message as the API shows it; for what the marker says, the time when it was moved there."""
        marker, mine, offset = self.marker, mine or Receipt(), message.offset or 0
        read_at = mine.read_at or (marker.read_at if offset <= marker.read_to and not mine.unread else None)
        seen_at = mine.seen_at or (marker.seen_at if offset <= marker.seen_to else None) or read_at
        archived_at = mine.archived_at or (marker.archived_at if offset <= marker.archived_to else None)
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
        off = preferences.of(user).among([preferences.Choice.OFF])
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
                    off if names[topic.name] else NOTHING,
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
            older = source.after(before) & Q(created_at__lte=before.moment) if before else Q()
            for state in source.states(unread=unread, archived=archived):
                part = source.messages(wanted, older, state)
                for message in part.order_by("-created_at", "-offset")[: limit + 1]:
                    found.append((Place(message.created_at, source.rank, message.offset or 0), message, source))
        found.sort(key=lambda item: (item[0].moment, -item[0].rank, item[0].offset), reverse=True)
        page = found[:limit]
        end = page[-1][0] if len(found) > limit else None
        mine = Receipt.objects.filter(user=self.user, message__in=[message.pk for _place, message, _source in page])
        receipts = {receipt.message_id: receipt for receipt in mine}
        return [source.shown(message, receipts.get(message.pk)) for _place, message, source in page], end


def _since(user: User, rank: int) -> datetime | None:
    """Shared topics begin for a user when they come: first seen at all, and in this account."""
    if rank == 0 or not settings.INBOX_FROM_FIRST_SEEN:
        return None
    return max(user.created_at, user.moved_at) if rank == 1 and user.moved_at else user.created_at


def _count(source: Source) -> tuple[int, int]:
    """How many are unread, and how many of these unseen, each up to one more than COUNTED; mostly in one query."""
    above, again = source.states(unread=True, archived=False)
    fresh = Case(When(source.never("seen"), then=1), default=0)
    # The oldest first: people read the newest, so what waits is there.
    some = source.messages(above).annotate(fresh=fresh).order_by("offset").values("fresh")[: COUNTED + 1]
    unread, unseen = some.aggregate(unread=Count("*"), unseen=Sum("fresh", default=0)).values()
    if unread > COUNTED > unseen:
        unseen = _up_to_counted(source.messages(source.never("archived", "seen")))
    if unread <= COUNTED and source.marker.read_to:
        unread += _up_to_counted(source.messages(again))
    return unread, unseen


def _up_to_counted(found: QuerySet[Message]) -> int:
    return found.order_by("offset").values("pk")[: COUNTED + 1].count()
