"""API keys: create, find, revoke."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit, revocations
from accounts.models import ApiKey
from accounts.principals import SCOPES, Kind, Principal
from accounts.revocations import Reason

PREFIX = "ff_"
CACHE_SECONDS = 1.0  # So a revoked key works for a second at most, and a busy one costs one query a second.
CACHE_ENTRIES = 10_000
LAST_USED_PRECISION = timedelta(minutes=1)

_cache: dict[str, tuple[float, Principal | None]] = {}


def create(name: str, scopes: Iterable[str] = SCOPES, expires_at: datetime | None = None) -> tuple[ApiKey, str]:
    """Makes a key -> (its row, its text). The text is not stored: show it now or never.

    Raises ValueError for a scope that does not exist.
    """
    wanted = sorted(set(scopes))
    if unknown := set(wanted) - SCOPES:
        raise ValueError(f"unknown scopes: {', '.join(sorted(unknown))}")
    prefix, secret = secrets.token_hex(6), secrets.token_hex(32)
    text = f"{PREFIX}{prefix}_{secret}"
    row = ApiKey(name=name, prefix=prefix, digest=_digest(text), scopes=wanted, expires_at=expires_at)
    ends = expires_at.isoformat() if expires_at else None
    with transaction.atomic():
        row.save(force_insert=True)
        audit.record(None, "key.created", f"key:{prefix}", after={"name": name, "scopes": wanted, "expires_at": ends})
    return row, text


def revoke(prefix: str) -> bool:
    """Ends a key and what it has opened, within a second in every process -> whether it was alive."""
    _cache.clear()
    with transaction.atomic():
        alive = ApiKey.objects.filter(prefix=prefix, revoked_at=None).update(revoked_at=timezone.now()) == 1
        if alive:
            revocations.revoke(f"key:{prefix}", Reason.REVOKED)
            audit.record(None, "key.revoked", f"key:{prefix}")
    return alive


def find(text: str) -> Principal | None:
    """The service that holds this key, or None for one that is unknown, expired or revoked."""
    digest, now = _digest(text), time.monotonic()
    cached = _cache.get(digest)
    if cached and cached[0] > now:
        return cached[1]
    principal = _load(text, digest)
    if len(_cache) >= CACHE_ENTRIES:
        _cache.clear()
    _cache[digest] = (now + CACHE_SECONDS, principal)
    return principal


def _load(text: str, digest: str) -> Principal | None:
    prefix = text.removeprefix(PREFIX).partition("_")[0]
    if not prefix.isalnum():  # PostgreSQL raises for a NUL.
        return None
    now = timezone.now()
    alive = Q(expires_at=None) | Q(expires_at__gt=now)
    row = ApiKey.objects.filter(alive, prefix=prefix, revoked_at=None).first()
    if row is None or not hmac.compare_digest(row.digest, digest):
        return None
    if row.last_used_at is None or now - row.last_used_at > LAST_USED_PRECISION:
        ApiKey.objects.filter(pk=row.pk).update(last_used_at=now)
    return Principal(
        Kind.SERVICE,
        row.prefix,
        scopes=frozenset(row.scopes),
        expires_at=row.expires_at.timestamp() if row.expires_at else None,
        issued_at=row.created_at.timestamp(),
        credential=f"key:{row.prefix}",
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
