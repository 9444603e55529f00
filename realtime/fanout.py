"""Fan-out: writing events to connections, to each what is for it, and every encoding made once."""

import asyncio
import time
from collections.abc import Container, Iterable, Sequence

from realtime import metrics
from realtime.connections import Connection
from realtime.frames import Encoding, Event
from realtime.protocol import CloseCode


def fan_out(connections: Iterable[Connection], events: Sequence[Event], muted: Container[object] = ()) -> None:
    """Writes events to every connection that is to get them, each encoding made once.

    `muted`: the types that one of the connections may mute.
    """
    if any(event.exclude or event.state or event.type in muted for event in events):
        for event in events:
            _write([c for c in connections if _is_for(c, event)], [event])
    else:
        _write(connections, events)
    if events:
        metrics.send_lag.observe(max(0.0, time.time() - events[0].published_at))


def _write(connections: Iterable[Connection], events: Sequence[Event]) -> None:
    bodies, state = [event.body for event in events], events[0].state
    made: dict[Encoding, object] = {}
    encoding: Encoding | None = None
    data: object = None
    count = 0
    # A copy: a connection that turns out to be too slow leaves its topics while we go through them.
    for connection in list(connections):
        if connection.encoding is not encoding:
            encoding = connection.encoding
            if encoding not in made:
                made[encoding] = encoding(bodies)
            data = made[encoding]
        try:
            if state:
                connection.write_newest(events[0].topic, data)
            else:
                connection.write(data)
        except Exception:  # Whatever broke there: the others get the events, and this one comes back for them.
            metrics.drops.labels("broken_connection").inc(len(events))
            asyncio.get_running_loop().call_soon(connection.close, CloseCode.UNAVAILABLE, "try again soon")
            continue
        count += 1
    metrics.deliveries.inc(count * len(events))


def send(connection: Connection, events: Sequence[Event]) -> None:
    if events:
        fan_out([connection], events, connection.muted)


def visible(events: Iterable[Event], connection: Connection) -> list[Event]:
    now = time.time()
    return [
        event for event in events if (event.expires_at is None or event.expires_at > now) and _is_for(connection, event)
    ]


def _is_for(connection: Connection, event: Event) -> bool:
    return connection.user not in event.exclude and event.type not in connection.muted


def after(events: Iterable[Event], offset: int) -> list[Event]:
    """Those that come after a position; what has no offset always does."""
    return [event for event in events if event.offset is None or event.offset > offset]
