"""End users: known from when they are first seen, moved between accounts, erased from every room."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.module_loading import import_string
from msgspec import UNSET, UnsetType

from accounts import audit, revocations
from accounts.models import Account, AuditEntry, IdempotencyKey, Token, User
from accounts.principals import Kind, Principal
from accounts.remembered import Remembered
from accounts.revocations import Reason
from accounts.shapes import UserChange

ROWS_A_STATEMENT = 1000
ERASE_TRIES = 5  # Each fails only where something of theirs has come meanwhile.

_accounts = Remembered[str | UnsetType | None]()  # UNSET: the user's row is there, the account was not read.


class StaleAccount(Exception):
    """The user has been moved to another account since the credential was issued."""


class Eraser(Protocol):
    """A function of USER_ERASERS: deletes what a room holds of a user, in the transaction -> whether it held any."""

    def __call__(self, user: str) -> bool: ...


class Mover(Protocol):
    """A function of USER_MOVERS: lets a room know in the transaction which account a user has left for which."""

    def __call__(self, user: str, before: str | None, after: str | None) -> None: ...


def ensure(ids: Iterable[str]) -> None:
    """Makes users known that are targets, in the caller's transaction: at most one statement, mostly none."""
    version = _accounts.version
    strangers = sorted({user for user in ids if user not in _accounts})  # In one order, or two could deadlock.
    for start in range(0, len(strangers), ROWS_A_STATEMENT):
        rows = [User(id=user) for user in strangers[start : start + ROWS_A_STATEMENT]]
        User.objects.bulk_create(rows, ignore_conflicts=True)
    if strangers:
        transaction.on_commit(lambda: _accounts.keep(dict.fromkeys(strangers, UNSET), version))


def see(user: str, account: str | None, issued_at: float) -> str | None:
    """A good credential names this user -> the account that they are in.

    The credential's account wins, and moves the user. Raises StaleAccount for one that is older than the last move.
    """
    version, remembered = _accounts.version, _accounts.get(user)
    if remembered is not UNSET and account in (None, remembered):
        return remembered
    row = User.objects.filter(pk=user).first()
    if row is None or (account is not None and account != row.account_id):
        row = _meet(user, account, datetime.fromtimestamp(max(issued_at, 0.0), tz=UTC))
    _accounts.keep({user: row.account_id}, version)
    return row.account_id


def _meet(user: str, account: str | None, issued_at: datetime) -> User:
    with transaction.atomic():
        row, created = _make(user, account, issued_at)
        if created or account is None or row.account_id == account:
            return row
        if row.moved_at is not None and issued_at < row.moved_at:
            raise StaleAccount
        before = row.account_id
        _move(row, account, issued_at)
        actor = Principal(Kind.USER, user)  # Their credential says so.
        audit.record(actor, "user.moved", f"user:{user}", before={"account": before}, after={"account": account})
        return row


def change(actor: Principal | None, user: str, changes: UserChange) -> User:
    """Makes or changes a user. A new account moves them: what credentials of before say of it counts no more."""
    now = timezone.now()
    with transaction.atomic():
        row, created = _make(user, None if changes.account is UNSET else changes.account, now)
        before = None if created else as_dict(row)
        if changes.name is not UNSET:
            row.name = changes.name
        if changes.attributes is not UNSET:
            row.attributes = changes.attributes
        row.save(update_fields=["name", "attributes"])
        if changes.account is not UNSET and changes.account != row.account_id:
            _move(row, changes.account, now)
        audit.record(actor, "user.changed", f"user:{user}", before=before, after=as_dict(row))
    _accounts.forget([user])
    return row


def erase(actor: Principal | None, user: str) -> bool:
    """Deletes the user and what every room holds of them, and ends their credentials -> whether there was anything."""
    for _ in range(ERASE_TRIES - 1):
        with suppress(IntegrityError):
            return _erase(actor, user)
    return _erase(actor, user)


def _erase(actor: Principal | None, user: str) -> bool:
    with transaction.atomic():
        known = User.objects.select_for_update().filter(pk=user).exists()  # Of two who do it, one does.
        erasers: list[Eraser] = [import_string(path) for path in settings.USER_ERASERS]
        # Rooms may know a name that is no user's, such as that of somebody whose scores a backend has sent.
        held = [eraser(user) for eraser in erasers]
        if not known and not any(held):
            return False
        Token.objects.filter(user=user).delete()
        IdempotencyKey.objects.filter(principal=f"user:{user}").delete()
        AuditEntry.objects.filter(subject=f"user:{user}").update(before=None, after=None)
        User.objects.filter(pk=user).delete()
        revocations.revoke(f"user:{user}", Reason.ERASED)
        audit.record(actor, "user.erased", f"user:{user}")
    _accounts.forget([user])
    return True


def is_settled(user: str, account: str | None) -> bool:
    """Whether this process still knows the user to be in this account; asks nobody."""
    return _accounts.get(user) == account


def as_dict(row: User) -> dict[str, Any]:
    return {"account": row.account_id, "name": row.name, "attributes": row.attributes}


def _make(user: str, account: str | None, moved_at: datetime) -> tuple[User, bool]:
    """The user's row, locked; made where there was none, as is the account. Accounts come first, or two deadlock."""
    if account is not None:
        Account.objects.bulk_create([Account(id=account)], ignore_conflicts=True)
    created = False
    row = User.objects.select_for_update().filter(pk=user).first()
    if row is None:
        placed = {} if account is None else {"account_id": account, "moved_at": moved_at}
        row, created = User.objects.select_for_update().get_or_create(pk=user, defaults=placed)
    return row, created


def _move(row: User, account: str | None, moved_at: datetime) -> None:
    """Live connections are in the old account's topics: they come back, into the new one's."""
    before, row.account_id, row.moved_at = row.account_id, account, moved_at
    row.save(update_fields=["account", "moved_at"])
    for path in settings.USER_MOVERS:
        mover: Mover = import_string(path)
        mover(row.id, before, account)
    # Not those of the credential that has moved the user, nor newer ones.
    revocations.close(f"user:{row.id}", Reason.MOVED, issued_until=moved_at - timedelta(milliseconds=1))
