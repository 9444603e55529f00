"""Tickets: a credential for one handshake, where a browser cannot send a header and a URL is no place for a token."""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

import msgspec
from django.utils import timezone

from accounts.models import Ticket
from accounts.principals import Principal

SECONDS = 30


def issue(principal: Principal) -> tuple[str, datetime]:
    """A ticket that stands for the caller, once, within SECONDS, and not longer than their credential.

    -> (its text, when it expires)
    """
    text, expires_at = secrets.token_urlsafe(32), timezone.now() + timedelta(seconds=SECONDS)
    if principal.expires_at is not None:
        expires_at = min(expires_at, datetime.fromtimestamp(principal.expires_at, tz=UTC))
    Ticket.objects.create(
        digest=_digest(text), principal=msgspec.json.encode(principal).decode(), expires_at=expires_at
    )
    return text, expires_at


def redeem(text: str) -> Principal | None:
    """The holder of the ticket, once; None for one that is unknown, used or too old."""
    row = Ticket.objects.filter(digest=_digest(text), expires_at__gt=timezone.now()).first()
    # Of two that redeem it at once, only one deletes it.
    if row is None or not Ticket.objects.filter(digest=row.digest).delete()[0]:
        return None
    return msgspec.json.decode(row.principal, type=Principal)


def purge() -> None:
    """Deletes those that nobody used in time."""
    Ticket.objects.filter(expires_at__lte=timezone.now()).delete()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()
