"""What users want of each type of messages: live, in the inbox only, or not at all.

A message to one user is judged when it enters the log. Of broadcasts nothing is written for a user: the inbox leaves
out what is off when it is opened, and the hub what is not live when it sends.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from django.conf import settings
from django.db import transaction
from msgspec import UNSET

from accounts import revocations
from accounts.models import User
from accounts.remembered import Remembered
from accounts.revocations import Reason
from notifications.models import Message, Preference, Receipt
from realtime.mutes import Mute

Choice = Preference.Choice
SILENT = (Choice.INBOX, Choice.OFF)

REST = "*"  # The choice for types that have none of their own.
TYPES_MAX = 100  # For each user.
WITHHELD = "preference"  # The reason on a receipt.

_mutes = Remembered[Mute]()


@dataclass(frozen=True, slots=True)
class Choices:
    """What one user chose. Of a critical type (CRITICAL_TYPES) it is always `live`."""

    by_type: Mapping[str, str] = field(default_factory=dict)

    def of(self, type: str) -> str:
        if not self.by_type or type in settings.CRITICAL_TYPES:
            return Choice.LIVE
        return self.by_type.get(type) or self.by_type.get(REST, Choice.LIVE)

    def among(self, some: Collection[str]) -> Mute:
        """The types for which the user chose one of these."""
        all_but = self.by_type.get(REST) in some
        named = (self.by_type.keys() | set(settings.CRITICAL_TYPES)) - {REST}
        return Mute(frozenset(type for type in named if (self.of(type) in some) is not all_but), all_but)


def of(user: str) -> Choices:
    return Choices(dict(Preference.objects.filter(user=user).values_list("type", "choice")))


def muted(user: str) -> Mute:
    """What a user's connections do not get (REALTIME_MUTES): one indexed query, and none when they come again.

    What is remembered is forgotten with the revocation that `replace` makes; who came in just before is closed by it.
    """
    return muted_by([user])[user]


def muted_by(users: Collection[str]) -> dict[str, Mute]:
    """The same for many, in one query."""
    version = _mutes.version
    mutes = {user: mute for user in users if (mute := _mutes.get(user)) is not UNSET}
    if unknown := set(users) - mutes.keys():
        chosen: dict[str, dict[str, str]] = {user: {} for user in unknown}
        for user, type, choice in Preference.objects.filter(user__in=unknown).values_list("user", "type", "choice"):
            chosen[user][type] = choice
        found = {user: Choices(choices).among(SILENT) for user, choices in chosen.items()}
        _mutes.keep(found, version)
        mutes |= found
    return mutes


def replace(user: str, choices: Mapping[str, str]) -> None:
    """Puts these in place of all that the user chose; connections that then have to get other messages come back."""
    with transaction.atomic():
        User.objects.select_for_update().get_or_create(pk=user)  # Two at once: one after the other.
        before = of(user)
        Preference.objects.filter(user=user).delete()
        Preference.objects.bulk_create(Preference(user=user, type=t, choice=c) for t, c in choices.items())
        if before.among(SILENT) != Choices(choices).among(SILENT):
            revocations.close(f"user:{user}", Reason.CHANGED)


def withhold(to_users: Iterable[tuple[str, Message]]) -> list[Receipt]:
    """Receipts, to be stored, of messages to single users that these do not want, or not live; one query.

    The messages know that they have them.
    """
    addressed = [(user, message) for user, message in to_users]
    if not addressed:
        return []
    types = {REST, *(message.type for _user, message in addressed)}
    chosen: dict[str, dict[str, str]] = {}
    found = Preference.objects.filter(user__in={user for user, _message in addressed}, type__in=types)
    for user, type, choice in found.values_list("user", "type", "choice"):
        chosen.setdefault(user, {})[type] = choice
    receipts = [_receipt(user, message, Choices(chosen[user])) for user, message in addressed if user in chosen]
    return [receipt for receipt in receipts if receipt is not None]


def _receipt(user: str, message: Message, choices: Choices) -> Receipt | None:
    choice = choices.of(message.type)
    if choice == Choice.LIVE:
        return None
    message.has_exclusions = True
    off = choice == Choice.OFF
    return Receipt(message=message, user=user, excluded=off, quiet=not off, reason=WITHHELD)


def check_critical(choices: Mapping[str, str]) -> Sequence[str]:
    """The critical types for which something else than `live` is chosen."""
    return sorted(type for type, choice in choices.items() if choice != Choice.LIVE and type in settings.CRITICAL_TYPES)
