"""What clients say to backends: the socket's `send` and `publish` with a `message`, stored before they are answered.

Each is one event for the destinations that want it. Where there are handlers, one of these destinations calls them;
where nobody wants it, a table keeps it. Both are made when they are needed first, by whichever process it is.
"""

import itertools
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.conf import settings
from uuid_utils.compat import uuid7

from accounts.errors import ApiError
from accounts.principals import Principal
from adapters import destinations, functions, outbox
from adapters.models import Destination
from adapters.shapes import DestinationChange, NewDestination
from realtime import protocol

SOURCES = {"send": "apigw.route.send", "publish": "apigw.route.publish"}
KINDS = [f"client.{action}" for action in SOURCES]
TABLE, TABLE_NAME = "table", "client-messages"
FUNCTIONS, FUNCTIONS_NAME = "functions", "handlers"

_handled: set[str] = set()  # Kinds for whose handlers this process has seen a destination.


def perform(action: protocol.ClientMessage, principal: Principal, connection: str) -> dict[str, Any]:
    """A client's message for backends, stored (REALTIME_ACTIONS) -> `{id}`. Raises ApiError 403 and 413."""
    user = principal.require_user()
    event = _event(action, user, principal.account, connection)
    if event.kind in functions.kinds() and event.kind not in _handled:
        _ensure_functions(event.kind)
        _handled.add(event.kind)
    if not outbox.owe([event]):
        _ensure_table()
        outbox.forget_wants()
        if not outbox.owe([event]):  # Somebody has turned it off in this very moment.
            raise ApiError(503, "unavailable", "Nobody takes messages now: try again.", retry_after=1)
    return {"id": str(event.id)}


def _event(action: protocol.ClientMessage, user: str, account: str | None, connection: str) -> outbox.Event:
    name = action.__struct_config__.tag
    message = msgspec.json.encode(action.message)
    if len(message) > settings.MESSAGE_MAX_BYTES:
        raise ApiError(
            413, "too_large", f"message: {settings.MESSAGE_MAX_BYTES} bytes at most (MESSAGE_MAX_BYTES): send a link."
        )
    milliseconds = time.time_ns() // 1_000_000
    data = {
        "message": msgspec.Raw(message),
        "attributes": {"user_id": user, "timestamp": milliseconds, "source": SOURCES[str(name)]},
        "connection": connection,
        "account": account,
    }
    created_at = datetime.fromtimestamp(milliseconds / 1000, tz=UTC)
    return outbox.Event(f"client.{name}", uuid7(), f"user.{user}", msgspec.json.encode(data), created_at)


# --- Destinations of our own ----------------------------------------------------------------------
# In transactions of their own: what is owed to a row that is rolled back would be owed to nobody.


def _ensure_table() -> None:
    """Nobody wants it: the table that keeps such messages is there, turned on, and wants them all."""
    row = _find_or_make(TABLE, TABLE_NAME, KINDS, {"fallback": True})
    if not row.enabled or row.topics or row.types or (row.events and not set(KINDS) <= set(row.events)):
        events = sorted({*row.events, *KINDS}) if row.events else []
        changes = DestinationChange(enabled=True, events=events, topics=[], types=[])
        destinations.change(None, row, changes)


def _ensure_functions(kind: str) -> None:
    """There are handlers for it: they have a destination that wants it, unless somebody has turned that off."""
    row = _find_or_make(FUNCTIONS, FUNCTIONS_NAME, [kind], {})
    if row.events and kind not in row.events:
        destinations.change(None, row, DestinationChange(events=sorted({*row.events, kind})))
    outbox.forget_wants()  # Another process may have made it just now.


def _find_or_make(kind: str, name: str, events: list[str], options: dict[str, Any]) -> Destination:
    """The oldest destination of this kind with these options; if there is none, one is made, as `name` or `name-2` …"""
    wanted = {f"options__{option}": value for option, value in options.items()}
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    while True:
        row = Destination.objects.filter(kind=kind, deleted_at=None, **wanted).order_by("created_at").first()
        if row is not None:
            return row
        new = NewDestination(name=next(names), kind=kind, events=events, options=options)
        try:
            return destinations.create(None, new)[0]
        except ApiError as error:
            if error.code != "name_taken":  # By another process that has made the same, or by something else.
                raise
