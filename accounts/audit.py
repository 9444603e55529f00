"""Who changed what: an entry for each change of an identity or a right, in the transaction of the change."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.utils import timezone

from accounts.models import AuditEntry
from accounts.principals import Principal

SYSTEM = "system:command"  # What the console and Celery do.

_origin: ContextVar[tuple[str, str]] = ContextVar("origin", default=("", ""))


@contextmanager
def origin(request_id: str, address: str) -> Iterator[None]:
    """What is recorded inside came with this request, from this address."""
    token = _origin.set((request_id, address))
    try:
        yield
    finally:
        _origin.reset(token)


def record(
    actor: Principal | None,
    action: str,
    subject: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Writes an entry; `before` and `after` are JSON without secrets. Without an actor it was the console."""
    request_id, address = _origin.get()
    AuditEntry.objects.create(
        actor=str(actor) if actor else SYSTEM,
        action=action,
        subject=subject,
        before=before,
        after=after,
        request_id=request_id,
        address=address,
    )


def purge() -> None:
    """Forgets what is older than AUDIT_DAYS."""
    AuditEntry.objects.filter(created_at__lt=timezone.now() - timedelta(days=settings.AUDIT_DAYS)).delete()
