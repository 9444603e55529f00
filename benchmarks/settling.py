"""Settles users who came, and again when they have gone; prints how many a second. presence.py runs it."""

import sys
import time
from uuid import uuid4

import django

django.setup()

from django.utils import timezone  # noqa: E402

from presence import registry  # noqa: E402
from presence.registry import Gone, LiveConnection  # noqa: E402
from presence.transitions import settle  # noqa: E402


def main(users: int) -> None:
    names, boot = [f"u{number}" for number in range(users)], uuid4().hex
    now = timezone.now()
    here = [LiveConnection(uuid4().hex, name, None, None, "websocket", None, "", now, now, []) for name in names]
    registry.look()
    registry.script("redis.call('SET', 'fanfare:presence:since', '1')", [])  # As if it had known all for long.
    settle(names[:1])  # Warm.
    registry.change(boot, 1, here, [])
    seconds = _timed(names)
    registry.change(boot, 2, [], [Gone(one.id, one.user, "closed", 0.0) for one in here])
    print(2 * users / (seconds + _timed(names)))


def _timed(names: list[str]) -> float:
    began = time.perf_counter()
    settle(names)
    return time.perf_counter() - began


main(int(sys.argv[1]))
