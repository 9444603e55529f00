"""Requests that take effect once: their keys and replies live in the transaction of what they made."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce
from operator import or_
from typing import Any

import msgspec
from django.conf import settings
from django.db import OperationalError
from django.db.models import Q
from django.utils import timezone

from accounts.errors import ApiError
from accounts.models import IdempotencyKey
from accounts.principals import Principal

KEY_MAX = 200
ROWS_AT_ONCE = 1000
MAX_ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry out one request once: same principal, route and key are the same request."""

    principal: str
    route: str
    key: str
    body_digest: str

    @classmethod
    def of(cls, principal: Principal, route: str, key: str, body: bytes) -> "Claim":
        """Raises ApiError 400 for a key that is not 1-200 visible ASCII characters."""
        if not (1 <= len(key) <= KEY_MAX and key.isascii() and key.isprintable()):
            raise ApiError(
                400, "malformed_idempotency_key", f"Idempotency-Key: 1-{KEY_MAX} printable ASCII characters."
            )
        return cls(str(principal), route, key, hashlib.sha256(body).hexdigest())


def take(claims: Iterable[Claim]) -> dict[Claim, IdempotencyKey | ApiError]:
    """Takes each claim, in the caller's transaction -> its row, or why not.

    A row with a reply was carried out before: repeat the reply. One without is ours: fill in the reply with `keep`.
    Another body under the same key is ApiError 422. Raises ApiError 409 when the first one is still running.
    """
    # Sorted, so that two batches with the same keys wait for each other instead of deadlocking.
    mine = {
        claim: IdempotencyKey(
            principal=claim.principal, route=claim.route, key=claim.key, body_digest=claim.body_digest
        )
        for claim in sorted(set(claims), key=lambda claim: (claim.principal, claim.route, claim.key))
    }
    if not mine:
        return {}
    try:
        IdempotencyKey.objects.bulk_create(mine.values(), ignore_conflicts=True)
    except OperationalError as error:
        raise ApiError(
            409, "idempotency_in_progress", "The first request with this key is still running.", retry_after=1
        ) from error
    matches = reduce(or_, (Q(principal=c.principal, route=c.route, key=c.key) for c in mine))
    stored = {(row.principal, row.route, row.key): row for row in IdempotencyKey.objects.filter(matches)}
    taken: dict[Claim, IdempotencyKey | ApiError] = {}
    for claim in mine:
        row = stored[claim.principal, claim.route, claim.key]
        if row.body_digest != claim.body_digest:
            taken[claim] = ApiError(
                422, "idempotency_mismatch", "This Idempotency-Key was used with another body: choose a new one."
            )
        else:
            taken[claim] = row
    return taken


def keep(rows: Iterable[IdempotencyKey]) -> None:
    """Stores the replies of claims that were carried out now."""
    IdempotencyKey.objects.bulk_update(rows, ["reply"])


def take_one(claim: Claim) -> IdempotencyKey:
    """`take` of one claim. Raises ApiError 409 and 422."""
    taken = take([claim])[claim]
    if isinstance(taken, ApiError):
        raise taken
    return taken


def keep_one(row: IdempotencyKey, reply: Any) -> None:
    """Stores the reply of a claim that was carried out now, as JSON."""
    row.reply = msgspec.json.encode(reply).decode()
    row.save(update_fields=["reply"])


def purge() -> None:
    """Forgets keys that nobody repeats any more, in small transactions."""
    old = IdempotencyKey.objects.filter(created_at__lt=timezone.now() - timedelta(days=settings.IDEMPOTENCY_DAYS))
    for _ in range(MAX_ROUNDS):
        ids = list(old.order_by("created_at").values_list("pk", flat=True)[:ROWS_AT_ONCE])
        IdempotencyKey.objects.filter(pk__in=ids).delete()
        if len(ids) < ROWS_AT_ONCE:
            break
