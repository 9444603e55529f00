"""Sessions: made, made again, renewed, ended. They end by themselves SESSION_TTL after they were last heard of."""

import secrets
import time
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts.errors import ApiError
from notifications.erasure import forget
from notifications.history import MISSING, positions
from realtime.topics import topic_for
from sessions_app import access, dispatches, queues, state
from sessions_app.models import BrowserSession
from sessions_app.topics import unknown

Transport = BrowserSession.Transport

ENDED_AT_ONCE = 500
PURGE_SECONDS = 30.0
SEEN_SECONDS = 60.0  # That a session was heard of is written so often.


def open_session(
    id: str | None, user: str, account: str, transport: str, retention: int, address: str, agent: str
) -> tuple[BrowserSession, bool]:
    """The user's session of this id, renewed, or a new one -> it, and whether it is new.

    Raises ApiError 409 where the id is another user's, or the session has another transport; 422 for a transport that
    is not set up.
    """
    access.check(transport)
    now = timezone.now()
    wanted = BrowserSession(
        id=id or secrets.token_urlsafe(24),
        user=user,
        account=account,
        transport=transport,
        retention=retention,
        address=address,
        agent=agent,
        created_at=now,
        last_seen_at=now,
        expires_at=now + timedelta(seconds=settings.SESSION_TTL),
    )
    wanted.topic = topic_for("session", wanted.id)
    with transaction.atomic():
        if transport == Transport.POLL:
            wanted.state = state.begin({**positions(topics_of(wanted)), wanted.topic: MISSING})
        expired = BrowserSession.objects.filter(pk=wanted.pk, expires_at__lte=now)
        expired.exclude(user=user, transport=transport).delete()
        BrowserSession.objects.bulk_create([wanted], ignore_conflicts=True)
        kept = BrowserSession.objects.select_for_update().get(pk=wanted.pk)
        if kept.user != user:
            raise ApiError(409, "session_taken", "A session of this id is another user's: choose another id.")
        if kept.transport != transport:
            raise ApiError(409, "wrong_state", f"The session has transport {kept.transport}: destroy it first.")
        new, had_ended = kept.created_at == now, kept.expires_at <= now
        if not new:
            kept.retention, kept.address, kept.agent = retention, address, agent
            _place(kept, account)
            _renew(kept, now)
            fields = ["account", "retention", "address", "agent", "state", "last_seen_at", "expires_at"]
            kept.save(update_fields=fields)
        else:
            forget([kept.topic])  # What was for an earlier session of this id, which may have been another user's.
        if transport == Transport.SQS and (new or had_ended):
            dispatches.join(kept, topics_of(kept))
    return kept, new


def move(user: str, before: str | None, after: str | None) -> None:
    """A user has moved: sessions of the account that they were in hear the other one from now on.

    One of USER_MOVERS: inside the transaction that moves the user.
    """
    theirs = BrowserSession.objects.filter(user=user, account=before or "").order_by("pk")
    for session in theirs.select_for_update():
        _place(session, after or "")
        session.save(update_fields=["account", "state"])


def renew(session: BrowserSession) -> None:
    """SESSION_TTL from now. Raises ApiError 404 for one that has ended meanwhile."""
    now = timezone.now()
    _renew(session, now)
    found = BrowserSession.objects.filter(pk=session.pk, expires_at__gt=now)
    if not found.update(last_seen_at=session.last_seen_at, expires_at=session.expires_at):
        raise unknown()


def see(session: BrowserSession) -> None:
    """It is in use: that is written once a minute. Raises ApiError 404 for one that has ended meanwhile."""
    if is_unseen(session, timezone.now()):
        renew(session)


def is_unseen(session: BrowserSession, now: datetime) -> bool:
    """Whether it is time to write that it was heard of."""
    seconds: float = min(SEEN_SECONDS, settings.SESSION_TTL / 4)
    return (now - session.last_seen_at).total_seconds() > seconds


def get(id: str) -> BrowserSession:
    """Raises ApiError 404 for one that is not there, or has expired."""
    found = live().filter(pk=id).first() if id.isprintable() else None
    if found is None:
        raise unknown()
    return found


def live() -> QuerySet[BrowserSession]:
    return BrowserSession.objects.filter(expires_at__gt=timezone.now())


def topics_of(session: BrowserSession) -> Sequence[str]:
    """What a session hears."""
    account = [f"account.{session.account}"] if session.account else []
    return [session.topic, f"user.{session.user}", *account, "all"]


def end(found: QuerySet[BrowserSession]) -> int:
    """Ends sessions -> how many. What waits for them goes with their queues, their topics with the log's retention."""
    with transaction.atomic():
        rows = list(found.select_for_update())
        BrowserSession.objects.filter(pk__in=[session.pk for session in rows]).delete()
    access.take_away(rows)
    return len(rows)


def purge() -> int:
    """Ends those that have expired -> how many; after PURGE_SECONDS the others have to wait for the next time."""
    until = time.monotonic() + PURGE_SECONDS
    ended = 0
    while time.monotonic() < until:
        late = BrowserSession.objects.filter(expires_at__lte=timezone.now()).order_by("expires_at", "pk")
        if not (some := end(late[:ENDED_AT_ONCE])):
            break
        ended += some
    return ended


def delete_orphans() -> int:
    """Deletes queues that are ours by their name, and that no session names -> how many. Raises what boto3 raises."""
    until = time.monotonic() + PURGE_SECONDS
    deleted = 0
    for urls in queues.listed():
        named = set(
            BrowserSession.objects.filter(queue_name__in=map(queues.name_of, urls)).values_list("queue_name", flat=True)
        )
        orphans = [url for url in urls if queues.name_of(url) not in named]
        deleted += queues.delete([url for url in orphans if not queues.is_young(url)])
        if time.monotonic() > until:
            break
    return deleted


def _place(session: BrowserSession, account: str) -> None:
    """Of an account that is new to it, it hears what comes from now on."""
    session.account = account
    if session.transport == Transport.POLL:
        session.state = state.followed(session.state, positions(topics_of(session)))


def _renew(session: BrowserSession, now: datetime) -> None:
    session.last_seen_at = now
    session.expires_at = now + timedelta(seconds=settings.SESSION_TTL)
