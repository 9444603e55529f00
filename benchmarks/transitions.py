"""Has users come and go at a steady rate, and prints figures as JSON. presence_watch.py runs it."""

import json
import statistics
import sys
import time
from uuid import uuid4

import django

django.setup()

from django.utils import timezone  # noqa: E402

from presence import registry, states  # noqa: E402
from presence.models import Presence  # noqa: E402
from presence.registry import Gone, LiveConnection  # noqa: E402
from presence.transitions import settle  # noqa: E402
from realtime import bus  # noqa: E402

BATCHES_A_SECOND = 20
QUERIES = 51


def main(users: int, rate: int, seconds: int) -> None:
    names = [f"u{number}" for number in range(users)]
    boot = uuid4().hex
    open_now: dict[str, str] = {}
    _make_whole()
    batch = rate // BATCHES_A_SECOND
    began = time.monotonic()
    for number in range(BATCHES_A_SECOND * seconds):
        time.sleep(max(0.0, began + number / BATCHES_A_SECOND - time.monotonic()))
        some = [names[(number * batch + place) % users] for place in range(batch)]
        here = [_about(name) for name in some if name not in open_now]
        gone = [Gone(open_now.pop(name), name, "closed", 0.0) for name in some if name in open_now]
        registry.change(boot, number + 1, here, gone)
        open_now |= {one.user: one.id for one in here if one.user}
        settle(some)
    took = time.monotonic() - began
    bus._publisher().flush(30)
    versions = dict(Presence.objects.values_list("user", "version"))
    print(json.dumps({"rate": sum(versions.values()) / took, "versions": versions, "query": _query(names)}))


def _make_whole() -> None:
    """As if Redis had known all for long: else nobody goes OFFLINE before a lease has passed."""
    registry.look()
    registry.script("redis.call('SET', 'fanfare:presence:since', '1')", [])


def _about(name: str) -> LiveConnection:
    now = timezone.now()
    return LiveConnection(uuid4().hex, name, None, None, "websocket", None, "", now, now, [])


def _query(names: list[str]) -> float:
    """Milliseconds for all of the users, with how many connections each has."""
    times = []
    for _ in range(QUERIES):
        began = time.perf_counter()
        states.look(names, None)
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
