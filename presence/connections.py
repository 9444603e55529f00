"""Connections as the API shows them, and as destinations hear of them."""

from collections.abc import Iterable
from dataclasses import dataclass
from uuid import NAMESPACE_OID, uuid5

import msgspec
from django.utils import timezone

from adapters import outbox
from presence import registry
from presence.registry import LiveConnection

READ_AT_ONCE = 500
READ_MAX = 2000  # For one page; beyond, its `next` goes on from there.

OPENED, CLOSED = "connection.opened", "connection.closed"


class Connections(msgspec.Struct):
    connections: list[LiveConnection]
    next: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which connections to list: all that have what is given."""

    user: str | None = None
    account: str | None = None
    transport: str | None = None

    def __contains__(self, one: LiveConnection) -> bool:
        return (
            self.user in (None, one.user)
            and self.account in (None, one.account)
            and self.transport in (None, one.transport)
        )


def page(wanted: Wanted, after: str, limit: int) -> tuple[list[LiveConnection], str | None]:
    """Connections in the order of their ids, from after one -> at most `limit`, and where the next page begins.

    A page may have few or none, and still a next one: a request looks at READ_MAX. Raises RedisDown.
    """
    if wanted.user is not None:
        mine = [one for one in registry.connections_of(wanted.user) if one.id > after and one in wanted]
        return mine[:limit], mine[limit - 1].id if len(mine) > limit else None
    found: list[LiveConnection] = []
    place: str | None = after
    for _ in range(READ_MAX // READ_AT_ONCE):
        some, place = registry.connections(place or "", READ_AT_ONCE)
        found += [one for one in some if one in wanted]
        if len(found) > limit:
            return found[:limit], found[limit - 1].id
        if place is None:
            break
    return found, place


def owe(kind: str, about: Iterable[tuple[LiveConnection, str]]) -> None:
    """Writes what destinations are owed that want OPENED or CLOSED, each with why; nothing where none does.

    The same event of a connection, with the same reason, has always the same id: who hears of it twice can tell. One
    that was told to be lost with its process may turn out to live: then it is told again when it is closed.
    """
    outbox.owe(_event(kind, one, reason) for one, reason in about)


def _event(kind: str, one: LiveConnection, reason: str) -> outbox.Event:
    now = timezone.now()
    connection = {name: value for name, value in msgspec.structs.asdict(one).items() if name != "topics"}
    data = {"type": kind, "connection": connection, "reason": reason, "timestamp": int(now.timestamp() * 1000)}
    key = f"user.{one.user}" if one.user else ""
    return outbox.Event(kind, uuid5(NAMESPACE_OID, f"{kind}:{one.id}:{reason}"), key, msgspec.json.encode(data), now)
