"""A worker that looks often, and a task that kills it the first time."""

import os
import signal
from pathlib import Path

from celery import shared_task

from config.celery import app

__all__ = ["app"]

app.conf.broker_transport_options["wait_time_seconds"] = 1  # Nor does a dead one's call wait for long.


@shared_task(name="tests.deadly")
def deadly(path: str) -> None:
    lines = Path(path)
    first = not lines.exists()
    with lines.open("a") as file:
        file.write("ran\n")
    if first:
        os.killpg(0, signal.SIGKILL)


@shared_task(name="tests.note")
def note(path: str, line: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{line}\n")
