"""Sessions: made, made again, renewed, ended. They end by themselves SESSION_TTL after they were last heard of."""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts.errors import ApiError
from notifications.history import positions
from realtime.topics import topic_for
from sessions_app import access, state
from sessions_app.models import BrowserSession
from sessions_app.topics import unknown

Transport = BrowserSession.Transport

ENDED_AT_ONCE = 500


def open_session(
    id: str | None, user: str, account: str, transport: str, retention: int, address: str, agent: str
) -> tuple[BrowserSession, bool]:
    """The user's session of this id, renewed, or a new one -> it, and whether it is new.

    Raises ApiError 409 where the id is another user's, or the session has another transport.
    """
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
            wanted.state = state.begin(positions(topics_of(wanted)))
        BrowserSession.objects.filter(pk=wanted.pk, expires_at__lte=now).exclude(user=user).delete()
        BrowserSession.objects.bulk_create([wanted], ignore_conflicts=True)
        kept = BrowserSession.objects.select_for_update().get(pk=wanted.pk)
        if kept.user != user:
            raise ApiError(409, "session_taken", "A session of this id is another user's: choose another id.")
        if kept.transport != transport:
            raise ApiError(409, "wrong_state", f"The session has transport {kept.transport}: destroy it first.")
        new = kept.created_at == now
        if not new:
            kept.account, kept.retention, kept.address, kept.agent = account, retention, address, agent
            _renew(kept, now)
            kept.save(update_fields=["account", "retention", "address", "agent", "last_seen_at", "expires_at"])
    return kept, new


def renew(session: BrowserSession) -> None:
    """SESSION_TTL from now. Raises ApiError 404 for one that has ended meanwhile."""
    now = timezone.now()
    _renew(session, now)
    found = BrowserSession.objects.filter(pk=session.pk, expires_at__gt=now)
    if not found.update(last_seen_at=session.last_seen_at, expires_at=session.expires_at):
        raise unknown()


def get(id: str) -> BrowserSession:
    """Raises ApiError 404 for one that is not there, or has expired."""
    found = live().filter(pk=id).first()
    if found is None:
        raise unknown()
    return found


def live() -> QuerySet[BrowserSession]:
    return BrowserSession.objects.filter(expires_at__gt=timezone.now())


def topics_of(session: BrowserSession) -> Sequence[str]:
    """What a session hears."""
    account = [f"account.{session.account}"] if session.account else []
    return [session.topic, f"user.{session.user}", *account, "all"]


def end(sessions: Sequence[BrowserSession]) -> None:
    """Ends sessions: what waits for them is gone with their queues. Their topics go with the log's retention."""
    access.take_away(sessions)
    BrowserSession.objects.filter(pk__in=[session.pk for session in sessions]).delete()


def purge() -> int:
    """Ends those that have expired -> how many."""
    ended = 0
    while True:
        late = list(
            BrowserSession.objects.filter(expires_at__lte=timezone.now()).order_by("expires_at")[:ENDED_AT_ONCE]
        )
        if not late:
            return ended
        end(late)
        ended += len(late)


def _renew(session: BrowserSession, now: datetime) -> None:
    session.last_seen_at = now
    session.expires_at = now + timedelta(seconds=settings.SESSION_TTL)
