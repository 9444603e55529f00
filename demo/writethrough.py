"""A table whose changes travel as events into a cache and a topic, and none is lost on the way.

Each change writes its events beside the row, in one transaction; `carry` hands them in, as often as it takes. This is
what a stream of a database and EventBridge do elsewhere.
"""

import random
import time
from collections.abc import Iterator
from typing import Any

import msgspec
from django.db import transaction
from django.utils import timezone

from accounts.errors import ApiError
from adapters import caches
from adapters.ingest import Record, ingest
from adapters.ingest_settings import Source
from demo.models import OwedEvent, Weather

CACHE, TOPIC = "default", "demo-weather"
SOURCE = Source("demo.writethrough", "eventbridge")  # The dot: no name of INGEST_SOURCES.
ROWS_MAX = 40
CARRIED_AT_ONCE = 100
PAUSE_SECONDS = 0.02
LOCATIONS = (
    "Accra", "Bergen", "Cusco", "Denver", "Essaouira", "Fukuoka", "Galway", "Hobart", "Izmir", "Jaipur", "Kyiv", "Lima",
)  # fmt: skip


class Full(Exception):
    """The table has ROWS_MAX rows."""


def put(location: str, max_temp: int, min_temp: int, rain: int, ttl: int) -> None:
    """INSERT or MODIFY. Raises Full."""
    with transaction.atomic():
        values = {"max_temp": max_temp, "min_temp": min_temp, "rain": rain, "ttl": ttl}
        row, inserted = Weather.objects.update_or_create(location=location, defaults=values)
        if inserted and Weather.objects.count() > ROWS_MAX:
            raise Full
        _owe("cacheSet", {"key": location, "message": _shown(row), "ttl": ttl})
        _tell(row, "INSERT" if inserted else "MODIFY")


def remove(location: str) -> bool:
    """REMOVE -> whether there was such a row."""
    with transaction.atomic():
        row = Weather.objects.select_for_update().filter(pk=location).first()
        if row is None:
            return False
        _owe("cacheDelete", {"key": location})
        _tell(row, "REMOVE")
        row.delete()
    return True


def carry() -> int:
    """Hands in what is owed, the oldest first -> how many events are owed still. What fails for now stays."""
    while owed := list(OwedEvent.objects.order_by("pk")[:CARRIED_AT_ONCE]):
        try:
            results = ingest(SOURCE, [Record(str(one.pk), one.body.encode()) for one in owed])
        except ApiError:
            break
        done = [one.pk for one, result in zip(owed, results, strict=True) if result.done]
        OwedEvent.objects.filter(pk__in=done).delete()
        if len(done) < len(owed):
            break
    return OwedEvent.objects.count()


def cached(location: str) -> dict[str, Any] | None:
    """What the cache has of a location -> `{value, ttl}`. Raises ApiError 503."""
    item = caches.get(caches.find(CACHE), location.encode())
    return None if item is None else {"value": item.value.decode(errors="replace"), "ttl": item.ttl}


def play(seconds: float, rate: float) -> Iterator[int]:
    """Changes the table so many times a second -> how many changes there were so far; the last when all is carried."""
    began, made = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        while made < int(passed * rate):
            _change_something()
            made += 1
        carry()
        yield made
        time.sleep(PAUSE_SECONDS)
    carry()
    yield made


def _change_something() -> None:
    location = random.choice(LOCATIONS)  # noqa: S311 (a game)
    if random.random() < 0.25 and remove(location):  # noqa: S311
        return
    low = random.randint(-10, 25)  # noqa: S311
    put(location, low + random.randint(3, 12), low, random.randrange(0, 101, 5), random.randint(20, 120))  # noqa: S311


def _shown(row: Weather) -> dict[str, Any]:
    return {
        "Location": row.location,
        "MaxTemp": row.max_temp,
        "MinTemp": row.min_temp,
        "ChancesOfPrecipitation": row.rain,
    }


def _tell(row: Weather, change: str) -> None:
    _owe("topicPublish", {"topicName": TOPIC, "message": {**_shown(row), "EventType": change}})


def _owe(detail_type: str, detail: dict[str, Any]) -> None:
    event = OwedEvent()
    body = {
        "id": str(event.pk),
        "detail-type": detail_type,
        "source": "demo",
        "time": timezone.now(),
        "detail": {"cacheName": CACHE, **detail},
    }
    event.body = msgspec.json.encode(body).decode()
    event.save(force_insert=True)
