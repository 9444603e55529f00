"""A web process to which the bus brings events late, twice, in another order, or not at all."""

import asyncio
import os
import random
from collections.abc import Iterable
from typing import Any

from config.asgi import application
from realtime.receiver import Receiver

__all__ = ["application"]

LOST, TWICE, LATE = 0.02, 0.1, 0.3
LATE_SECONDS = 0.12  # Longer than the hub waits for order.

_chance = random.Random(os.environ["FANFARE_SHUFFLE_SEED"])
_take = Receiver._take


def _shuffle(self: Receiver, messages: Iterable[dict[str, Any]]) -> None:
    loop = asyncio.get_running_loop()
    for message in messages:
        dice = _chance.random()
        if message["type"] != "bus.beat" and dice < LATE:
            if dice >= LOST:
                loop.call_later(_chance.uniform(0, LATE_SECONDS), _take, self, [message])
            if dice >= TWICE or dice < LOST:
                continue
        _take(self, [message])


Receiver._take = _shuffle  # type: ignore[method-assign]
