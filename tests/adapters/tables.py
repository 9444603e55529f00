"""A web process of the product that also lets a test put events into tables, and look at them."""

from config.asgi import application as product  # isort: skip  (It sets Django up.)

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.db.models.functions import Now
from uuid_utils.compat import uuid7

from accounts import api_keys
from adapters import fetching, waiting
from adapters.base import Parcel
from adapters.models import Destination, QueuedEvent
from realtime.admission import query_of
from realtime.asgi import Receive, Scope, Send
from realtime.database import in_database
from realtime.streams import reply

APPLICATION = f"{__name__}:application"


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    deed = scope["path"].removeprefix("/test/") if scope["type"] == "http" else ""
    if deed == "waiting":
        await reply(send, 200, msgspec.json.encode(len(waiting.room()._waiters)))
    elif deed in DEEDS:
        await reply(send, 200, msgspec.json.encode(await in_database(DEEDS[deed], **query_of(scope))))
    else:
        await product(scope, receive, send)


def _put(table: str, number: str) -> list[UUID]:
    """Adds so many events to a table, which is made if need be -> their ids."""
    destination, _ = Destination.objects.get_or_create(name=table, kind="table")
    return put(destination, int(number))


def _key(scope: str) -> str:
    return api_keys.create("of a test", [scope])[1]


def _revoke(key: str) -> bool:
    return api_keys.revoke(key.split("_")[1])


DEEDS: dict[str, Callable[..., Any]] = {"put": _put, "key": _key, "revoke": _revoke}


def make(name: str = "clients", **more: Any) -> Destination:
    return Destination.objects.create(name=name, kind="table", **more)


def lend(*tables: Destination, most: int = 10, visibility: float = 30) -> list[fetching.Fetched]:
    return fetching.receive([table.id for table in tables], most, visibility)


def put(destination: Destination, number: int = 1, **body: Any) -> list[UUID]:
    ids = [uuid7() for _ in range(number)]
    text = msgspec.json.encode({"type": "client.send", "timestamp": "2026-01-31T12:00:00Z", "data": body}).decode()
    fetching.put(destination.id, [Parcel(id, "message", "user.alice", text.encode()) for id in ids], timedelta(days=1))
    time.sleep(0.002)  # SQLite's clock counts milliseconds.
    return ids


def time_is_up() -> None:
    """Nobody has acknowledged what they were lent in time."""
    QueuedEvent.objects.exclude(receipt="").update(visible_at=Now())
