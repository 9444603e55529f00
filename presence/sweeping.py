"""What makes presence come right again after processes have died and Redis was lost."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace

from django.conf import settings

from presence import connections, metrics, registry, room_veils, rooms
from presence.models import Presence
from presence.transitions import USERS_AT_ONCE, settle

CONNECTIONS_AT_ONCE = 200
LOOK_AT_ONCE = 500


def sweep(seconds: float) -> None:
    """Takes dead processes' connections out, settles who is due, looks after who is ONLINE; for so long at most.

    Raises RedisDown, and whatever the database raises: what was not done then is done by the next one. Several at
    once do no harm.
    """
    until = time.monotonic() + seconds
    _take_lost(until)
    while rooms.sweep() and time.monotonic() < until:
        pass
    room_veils.ask(rooms.unsure(USERS_AT_ONCE))
    _settle_due(until)
    _look_after_online(until)


def _take_lost(until: float) -> None:
    """Destinations are owed before the connections are taken out: after a crash in between, once more."""
    sweeper = secrets.token_hex(8)
    while time.monotonic() < until and (found := registry.lost(sweeper, CONNECTIONS_AT_ONCE)):
        connections.owe(connections.CLOSED, ((one, "node_lost") for one in found.connections))
        metrics.swept.inc(registry.take(found, settings.PRESENCE_GRACE))


def _settle_due(until: float) -> None:
    while time.monotonic() < until:
        users, waiting = registry.due(USERS_AT_ONCE)
        metrics.due.set(waiting)
        settle(users)
        if len(users) < USERS_AT_ONCE:
            return


def _look_after_online(until: float) -> None:
    """Settles those who are ONLINE without a connection: Redis may have lost why they are due.

    All of them once Redis is whole again after a loss, and some each time otherwise.
    """
    look = registry.look()
    if not look.whole:
        return
    for some in _online(look.user):
        counts = registry.counts(some) if some else {}
        settle([user for user, count in counts.items() if not count])
        ended = len(some) < LOOK_AT_ONCE
        registry.looked(replace(look, all_seen=look.all_seen or ended, user="" if ended else some[-1]))
        if ended or look.all_seen or time.monotonic() >= until:
            return


def _online(after: str) -> Iterator[list[str]]:
    """Users who are ONLINE, from after one, page by page; the last page is not full."""
    while True:
        found = Presence.objects.filter(status=Presence.Status.ONLINE, pk__gt=after).order_by("pk")
        some = list(found.values_list("pk", flat=True)[:LOOK_AT_ONCE])
        yield some
        if len(some) < LOOK_AT_ONCE:
            return
        after = some[-1]
