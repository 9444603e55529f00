"""Reads and changes large inboxes in this process, and prints figures as JSON. inbox.py runs it."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from functools import partial
from uuid import UUID

import django

django.setup()

from django.db import connection  # noqa: E402
from django.db.models import Q  # noqa: E402
from django.utils import timezone  # noqa: E402

from accounts import users  # noqa: E402
from benchmarks.fanfare import text  # noqa: E402
from notifications.inbox import Inbox  # noqa: E402
from notifications.models import Message, Receipt, Topic  # noqa: E402
from notifications.receipts import Deed, receipt, receipt_all  # noqa: E402
from realtime import bus  # noqa: E402

TIMES = 21
IDS = 1000


def main(count: int) -> None:
    names = ("unread", "mixed", "newest", "marked", "receipts")
    ids = {name: _fill(name, count) for name in names}
    _read("mixed", ids["mixed"][::2])
    _read("newest", ids["newest"][count // 2 :])
    receipt_all("marked", Deed.READ)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    figures = {name: _milliseconds(partial(_open, name)) for name in names[:4]}
    figures |= {f"{name}, unread": _milliseconds(partial(_open, name, unread=True)) for name in names[:4]}
    figures["receipts"] = _receipts(ids["receipts"])
    print(json.dumps(figures))
    bus._publisher().flush(30)


def _fill(user: str, count: int) -> list[UUID]:
    users.see(user, None, 0.0)
    topic = Topic.objects.create(name=f"user.{user}", head=count)
    began, data = timezone.now(), text()
    messages = [
        Message(
            topic=topic, offset=offset, type="message", data=data, created_at=began + timedelta(milliseconds=offset)
        )
        for offset in range(1, count + 1)
    ]
    Message.objects.bulk_create(messages, batch_size=1000)
    return [message.pk for message in messages]


def _read(user: str, ids: Iterable[UUID]) -> None:
    now = timezone.now()
    Receipt.objects.bulk_create((Receipt(message_id=pk, user=user, read_at=now) for pk in ids), batch_size=1000)


def _open(user: str, *, unread: bool = False) -> None:
    inbox = Inbox.open(user)
    inbox.page(Q(), limit=25, unread=unread)
    inbox.counts()


def _milliseconds(work: Callable[[], object]) -> float:
    """The median."""
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[TIMES // 2] * 1000


def _receipts(ids: list[UUID]) -> float:
    """A second, read by single receipts in requests of IDS."""
    began, done = time.perf_counter(), 0
    for start in range(0, min(len(ids), 20 * IDS), IDS):
        done += len(receipt("receipts", Deed.READ, ids[start : start + IDS]).receipted)
    return done / (time.perf_counter() - began)


main(int(sys.argv[1]))
