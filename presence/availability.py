"""What users say of themselves: how available they are, and a line of text, on all their devices alike."""

from typing import Any

import msgspec
from django.db import transaction
from msgspec import UNSET

from accounts import users
from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import wrong
from presence import live, room_veils, shapes, states
from presence.models import Presence
from presence.states import INVISIBLE
from presence.transitions import settle
from realtime import protocol
from realtime.redis_scripts import RedisDown


def change(user: str, changes: shapes.StatusChange) -> Presence:
    """Changes what is given, tells the watchers, and settles the status when the user hides or shows themselves.

    What is as it was already tells nobody anything. Raises ApiError 400, and 503 where the status has to change and
    Redis does not answer: then nothing has changed.
    """
    if changes.text is not UNSET and not _is_line(changes.text):
        raise wrong("text", f"at most {shapes.TEXT_MAX} printable characters in one line")
    try:
        with transaction.atomic():
            users.ensure([user])
            return _change(user, changes)
    except RedisDown as error:
        raise ApiError(
            503, "registry_unavailable", "Who is connected cannot be known now: try again.", retry_after=2
        ) from error


def _change(user: str, changes: shapes.StatusChange) -> Presence:
    Presence.objects.bulk_create([Presence(user=user)], ignore_conflicts=True)
    row = Presence.objects.select_for_update().get(pk=user)
    was_hidden, was_seen = row.availability == INVISIBLE, states.seen(row)
    if not was_hidden:
        row.last_availability, row.last_text = row.availability, row.text
    if changes.availability is not UNSET:
        row.availability = changes.availability
    if changes.text is not UNSET:
        row.text = changes.text
    before = row.version
    row.save(update_fields=["availability", "text", "last_availability", "last_text"])
    if (row.availability == INVISIBLE) != was_hidden:
        settle([user])
        row.refresh_from_db()
        room_veils.changed(user)
    # What nobody else can see moves no version, and who hides moves it once, as who goes: it must not show.
    if row.version == before and states.seen(row) != was_seen:
        row.version += 1
        row.save(update_fields=["version"])
        transaction.on_commit(lambda: live.publish([row]), robust=True)
    return row


def _is_line(text: str) -> bool:
    """Printable, in one line; emoji may be joined."""
    return text.replace("\u200d", "").isprintable()


def perform(action: protocol.Status, principal: Principal, _connection: str) -> dict[str, Any]:
    """The socket's action `status` (REALTIME_ACTIONS) -> what now holds. Raises ApiError."""
    user = principal.require_user()
    given = {name: value for name in ("availability", "text") if (value := getattr(action, name)) is not None}
    try:
        changes = msgspec.convert(given, shapes.StatusChange)
    except msgspec.ValidationError as error:
        raise ApiError(400, "malformed", f"status: {error}.") from error
    row = change(user, changes)
    return {"availability": row.availability, "text": row.text, "status": row.status, "version": row.version}
