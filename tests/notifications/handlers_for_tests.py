"""Handlers for tests, in a web process and a worker that have them; and a worker's Celery application."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from config.asgi import application
from config.celery import app
from notifications.handlers import Progress, task_handler

__all__ = ["app", "application"]


@task_handler("note")
def note(payload: Any, progress: Progress) -> Any:
    """Leaves a line for each run, and takes a moment."""
    with Path(payload["file"]).open("a") as file:
        file.write(f"{payload['data']}\n")
    time.sleep(payload.get("seconds", 0.02))
    return None


@task_handler("oversleep")
def oversleep(payload: Any, progress: Progress) -> Any:
    """Never ends by itself."""
    time.sleep(600)


@task_handler("die")
def die(payload: Any, progress: Progress) -> Any:
    """Kills its process."""
    with Path(payload["file"]).open("a") as file:
        file.write("died\n")
    os.kill(os.getpid(), signal.SIGKILL)
