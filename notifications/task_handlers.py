"""The handlers that come with Fanfare."""

import time
from typing import Any

from django.conf import settings

from notifications.handlers import Progress, task_handler

STEP_SECONDS = 0.5


@task_handler("echo")
def echo(payload: Any, progress: Progress) -> Any:
    """Waits TASK_ECHO_SECONDS and gives back what it got: to try tasks out."""
    steps = max(1, round(settings.TASK_ECHO_SECONDS / STEP_SECONDS))
    for step in range(steps):
        progress(step / steps, f"step {step + 1} of {steps}")
        time.sleep(settings.TASK_ECHO_SECONDS / steps)
    return payload
