"""Tells watchers what has changed: the one door to the bus for presence."""

from collections.abc import Sequence

import msgspec

from presence import states
from presence.models import Presence
from presence.rights import topic_of
from presence.shapes import Seen
from realtime import bus, protocol
from realtime.frames import Event

CHANGES = "watch"  # The name on the bus under which every process that watches hears of every change.
EPOCH = "1"  # Of the topics `watch.<user>`: their offsets are versions.


def publish(rows: Sequence[Presence]) -> None:
    """Hands the changed rows to the bus, after commit. It never waits and never fails.

    What the bus loses, each process that watches reads from the database within POSITION_CHECK_SECONDS.
    """
    changed = [states.seen(row) for row in rows]
    bus.publish([change_event(state) for state in changed] + [topic_event(state) for state in changed])


def change_event(state: Seen) -> Event:
    return Event(CHANGES, msgspec.json.encode(state))


def topic_event(state: Seen) -> Event:
    """What the listeners of one user's topic get; of a user who is erased, outside the numbering."""
    topic = topic_of(state.user)
    timestamp = int(state.since.timestamp()) if state.since else None
    message = {"user_id": state.user, "status": state.status, "timestamp": timestamp}
    body = protocol.presence(topic, message, **msgspec.structs.asdict(state))
    if not state.version:
        return Event(topic, body, state=True)
    return Event(topic, body, EPOCH, state.version, state=True)
