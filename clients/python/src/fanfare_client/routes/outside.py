"""What goes outside and comes from there: destinations, deliveries, clients' messages."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from fanfare_client import calls
from fanfare_client.calls import Call, Page, Reply, given, moment, path, snake_case
from fanfare_client.outside_shapes import ClientMessage, Delivery, Destination


def create_destination(
    name: str,
    kind: str,
    address: str = "",
    *,
    events: Sequence[str] = (),
    topics: Sequence[str] = (),
    types: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> Call[Destination]:
    """A destination that gets events from now on; its `secret` is shown this once."""
    body = {"name": name, "kind": kind, "address": address, **given(options=options)}
    wants = {"events": list(events), "topics": list(topics), "types": list(types)}
    return calls.post_unsafe(path("destinations"), calls.one(Destination), body | wants)


def destination(id: str) -> Call[Destination]:
    return calls.get(path("destinations", id), calls.one(Destination))


def destinations(*, page_size: int | None = None) -> Call[Page[Destination]]:
    """All of them; `page_size`: how many are fetched at a time."""
    return calls.get(path("destinations"), calls.page("destinations", Destination), limit=page_size)


def change_destination(id: str, **changes: Any) -> Call[Destination]:
    """What is not given stays; `enabled=True` also ends a pause."""
    return Call("PATCH", path("destinations", id), calls.one(Destination), body=calls.encoded(changes))


def delete_destination(id: str) -> Call[None]:
    return calls.delete(path("destinations", id), calls.nothing)


def rotate_secret(id: str) -> Call[str]:
    """A new secret -> it. The one before signs too, until the next rotation."""
    return calls.post_unsafe(path("destinations", id, "rotate-secret"), calls.inside("secret", str), {})


def deliveries(
    *,
    destination: str | None = None,
    state: str | None = None,
    event: str | None = None,
    page_size: int | None = None,
) -> Call[Page[Delivery]]:
    """Of a destination (its id), in a state, of one message; `page_size`: how many are fetched at a time."""
    read = calls.page("deliveries", Delivery)
    query = {"destination": destination, "state": state, "event": event, "limit": page_size}
    return calls.get(path("deliveries"), read, **query)


def redrive(
    ids: Sequence[int] | None = None, *, destination: str | None = None, since: datetime | None = None
) -> Call[int]:
    """Sends dead letters again: these, or those of a destination (its id) -> how many, 10,000 at most."""
    which = given(
        ids=None if ids is None else list(ids), destination=destination, since=moment(since) if since else None
    )
    return calls.post(path("deliveries", "redrive"), calls.inside("redriven", int), which)


def receive(
    *, max: int = 10, wait: float = 0.0, visibility: int = 30, destination: str | None = None
) -> Call[list[ClientMessage]]:
    """What clients sent, lent for `visibility` seconds; `wait`: seconds to wait for some."""
    body = {"max": max, "wait": wait, "visibility": visibility, **given(destination=destination)}
    return calls.post(path("client-messages", "receive"), _client_messages, body, wait=wait)


def acknowledge(receipts: Sequence[str]) -> Call[int]:
    """What is done with -> how many are gone now."""
    return calls.post(path("client-messages", "ack"), calls.inside("acknowledged", int), {"receipts": list(receipts)})


def _client_messages(reply: Reply) -> list[ClientMessage]:
    fields = msgspec.json.decode(reply.body, type=dict[str, Any])
    messages = msgspec.convert(fields.get("messages"), list[Any])
    return msgspec.convert([snake_case(message) for message in messages], list[ClientMessage])
