"""What happened to a message so far, and who did what with it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from django.conf import settings
from django.db.models import Exists, F, OuterRef, Q, QuerySet
from django.utils import timezone
from django.utils.module_loading import import_string

from accounts.models import User
from notifications.models import Marker, Message, Receipt

NEWEST = 100  # Of each kind of step.
BY_SENDER = "excluded"  # The reason where the sender said that it is not for a user.


@dataclass(frozen=True, slots=True)
class Timeline:
    """Steps, oldest first: of those that users made the NEWEST of each kind; `totals` says how many there are."""

    steps: list[dict[str, Any]]
    totals: dict[str, int]


def timeline(message: Message, reader: str | None) -> Timeline:
    """`reader`: the user who asks, and sees what they did themselves; None sees everybody's steps.

    Bytes that were given to a socket are no step: `acknowledged` is what a client has said. Of what many get, that is
    counted only.
    """
    steps, totals = list(_fate(message)), {}
    for path in settings.TIMELINE_STEPS if reader is None else ():
        steps += import_string(path)(message)
    for kind, found, count in _deeds(message, reader):
        if count:
            totals[kind] = count
            steps += found
    return Timeline(sorted(steps, key=lambda step: cast(datetime, step["at"])), totals)


def _fate(message: Message) -> Iterator[dict[str, Any]]:
    now = timezone.now()
    yield {"what": "accepted", "at": datetime.fromtimestamp((message.id.int >> 80) / 1000, tz=now.tzinfo)}
    if message.send_at:
        yield {"what": "scheduled", "at": message.send_at}
    if message.offset is not None:
        yield {"what": "published", "at": message.created_at}
    if message.recalled_at:
        yield {"what": "recalled", "at": message.recalled_at}
    if message.expires_at and message.expires_at <= now:
        yield {"what": "expired", "at": message.expires_at}


Deeds = tuple[str, Iterable[dict[str, Any]], int]


def _deeds(message: Message, reader: str | None) -> Iterator[Deeds]:
    receipts = Receipt.objects.filter(message=message)
    if reader is not None:
        receipts = receipts.filter(user=reader)
    if message.topic.name.startswith("user."):
        yield _acknowledged(message, reader)
    elif message.acknowledged and reader is None:
        yield "acknowledged", [], message.acknowledged
    for kind in ("seen", "read", "archived"):
        yield _done(message, receipts, kind, reader)
    if message.has_exclusions:
        yield _withheld(message, receipts.filter(excluded=True), "withheld")
        yield _withheld(message, receipts.filter(quiet=True), "quiet")


def _acknowledged(message: Message, reader: str | None) -> Deeds:
    user = message.topic.name.removeprefix("user.")
    rows = message.acknowledgements.all() if reader in (None, user) else message.acknowledgements.none()
    steps = [
        {"what": "acknowledged", "at": row.at, "user": user, "connection": row.connection}
        for row in rows.order_by("-at")[:NEWEST]
    ]
    return "acknowledged", steps, len(steps) if len(steps) < NEWEST else rows.count()


def _done(message: Message, receipts: QuerySet[Receipt], kind: str, reader: str | None) -> Deeds:
    """Single messages by receipts, and all up to one by markers; a user counts once, with the receipt."""
    by_receipt = receipts.filter(**{f"{kind}_at__isnull": False})
    by_marker = _markers(message, kind, reader)
    steps = [
        {"what": kind, "at": at, "user": user}
        for rows in (by_receipt, by_marker)
        for user, at in rows.order_by(F(f"{kind}_at").desc()).values_list("user", f"{kind}_at")[:NEWEST]
    ]
    newest = sorted(steps, key=lambda step: step["at"], reverse=True)[:NEWEST]
    total = len(steps) if len(steps) < NEWEST else by_receipt.count() + by_marker.count()
    return kind, newest, total


def _markers(message: Message, kind: str, reader: str | None) -> QuerySet[Marker]:
    """Those that have passed the message, of users in whose inbox it was."""
    found = Marker.objects.filter(topic=message.topic, **{f"{kind}_to__gte": message.offset or 0})
    if message.offset is None:
        return found.none()
    if reader is not None:
        found = found.filter(user=reader)
    settled = Q(excluded=True) | Q(**{f"{kind}_at__isnull": False})
    if kind == "read":
        settled |= Q(unread=True)
    found = found.exclude(Exists(Receipt.objects.filter(settled, message=message, user=OuterRef("user"))))
    if settings.INBOX_FROM_FIRST_SEEN and not message.topic.name.startswith("user."):
        there = User.objects.filter(pk=OuterRef("user"), created_at__lte=message.created_at)
        if message.topic.name != "all":
            there = there.filter(Q(moved_at=None) | Q(moved_at__lte=message.created_at))
        found = found.filter(Exists(there))
    return found


def _withheld(message: Message, receipts: QuerySet[Receipt], what: str) -> Deeds:
    steps = [
        {"what": what, "at": message.created_at, "user": row.user, "reason": row.reason or BY_SENDER}
        for row in receipts.order_by("-pk")[:NEWEST]
    ]
    return what, steps, len(steps) if len(steps) < NEWEST else receipts.count()
