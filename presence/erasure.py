"""What presence forgets of a user who is erased."""

from contextlib import suppress

from django.db import transaction

from presence import live, registry
from presence.models import Presence, Transition
from realtime.redis_scripts import RedisDown


def erase_user(user: str) -> bool:
    """Deletes their status and its history; that they are connected, Redis knows until their connections are closed.

    One of USER_ERASERS: inside the transaction that erases the user.
    """
    known, _ = Presence.objects.filter(pk=user).delete()
    changes, _ = Transition.objects.filter(user=user).delete()
    transaction.on_commit(lambda: _forget(user))
    transaction.on_commit(lambda: live.publish([Presence(user=user)]), robust=True)
    return bool(known + changes)


def _forget(user: str) -> None:
    with suppress(RedisDown):  # Settling finds that there is nobody to settle.
        registry.forget(user)
