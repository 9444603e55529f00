"""`python -m benchmarks.many_sessions make COUNT`: sessions `s0`, `s1`, … of users `u0`, `u1`, …, all of account acme.

`measure COUNT`: prints how many a second are opened, how many bytes a row takes, and how many a second are purged.
"""

import sys
import time
from datetime import timedelta
from pathlib import Path

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402
from django.utils import timezone  # noqa: E402

from accounts.models import Account, User  # noqa: E402
from notifications.history import positions  # noqa: E402
from realtime.topics import topic_for  # noqa: E402
from sessions_app import sessions, state  # noqa: E402
from sessions_app.models import BrowserSession  # noqa: E402

ROWS_AT_ONCE = 1000
OPENED = 2000


def make(count: int) -> None:
    """Their users are known, as of whoever has made a session."""
    Account.objects.bulk_create([Account(id="acme")], ignore_conflicts=True)
    begun = state.begin(positions(["account.acme", "all"]))
    for start in range(0, count, ROWS_AT_ONCE):
        numbers = range(start, min(count, start + ROWS_AT_ONCE))
        users = [User(id=f"u{number}", account_id="acme", moved_at=timezone.now()) for number in numbers]
        User.objects.bulk_create(users, ignore_conflicts=True)
        BrowserSession.objects.bulk_create([_row(number, begun) for number in numbers])


def _row(number: int, begun: str) -> BrowserSession:
    topic, user = topic_for("session", f"s{number}"), f"u{number}"
    begun = begun.replace('{"at":{', f'{{"at":{{"{topic}":[null,0],"user.{user}":[null,0],', 1)
    now = timezone.now()
    return BrowserSession(
        id=f"s{number}",
        topic=topic,
        user=user,
        account="acme",
        transport=BrowserSession.Transport.POLL,
        retention=3600,
        agent="Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/128.0",
        address="192.0.2.7",
        created_at=now,
        last_seen_at=now,
        expires_at=now + timedelta(seconds=settings.SESSION_TTL),
        state=begun,
    )


def measure(count: int) -> None:
    began = time.perf_counter()
    for number in range(OPENED):
        sessions.open_session(f"o{number}", f"u{number}", "acme", "poll", 3600, "192.0.2.7", "")
    opening = OPENED / (time.perf_counter() - began)
    BrowserSession.objects.all().delete()
    before = _size()
    make(count)
    row = (_size() - before) / count
    BrowserSession.objects.update(expires_at=timezone.now())
    began = time.perf_counter()
    purged = sessions.purge()
    print(opening, row, purged / (time.perf_counter() - began))


def _size() -> int:
    """What the table and its indexes take, or else the database."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT pg_total_relation_size(%s)", [BrowserSession._meta.db_table])
            return int(cursor.fetchone()[0])
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.execute("VACUUM")
    return Path(settings.DATABASES["default"]["NAME"]).stat().st_size


{"make": make, "measure": measure}[sys.argv[1]](int(sys.argv[2]))
