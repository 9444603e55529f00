"""Web process and worker that die between commit and publish, whenever the file FANFARE_CRASH_FILE is there."""

import os
from collections.abc import Iterable
from pathlib import Path

from config.asgi import application
from config.celery import app
from realtime import bus
from realtime.frames import Event

__all__ = ["app", "application"]

_publish = bus.publish


def _die_or_publish(events: Iterable[Event]) -> None:
    events = list(events)
    try:
        if events:
            Path(os.environ["FANFARE_CRASH_FILE"]).unlink()  # It kills one process, once.
            os._exit(9)
    except FileNotFoundError:
        pass
    _publish(events)


bus.publish = _die_or_publish
