"""Start-up checks: what would fail late fails early, with the setting to change."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.utils.module_loading import import_string

from notifications import handoff


@register()
def check_tasks(**_options: Any) -> list[CheckMessage]:
    """The settings of tasks are possible ones."""
    return [Error(text, id="notifications.E001") for text in _mistakes()]


def _mistakes() -> Iterator[str]:
    if (path := settings.TASKS_QUEUE) and not handoff.is_url(path):
        try:
            if not callable(getattr(import_string(path), "send", None)):
                yield f"TASKS_QUEUE: {path} is no class with a method send(body)."
        except ImportError as error:
            yield f"TASKS_QUEUE: {error}"
    for name in ("TASK_TIMEOUT", "TASK_LEASE_SECONDS", "TASK_ATTEMPTS", "TASKS_DAYS"):
        if not getattr(settings, name) > 0:
            yield f"{name} is not above 0."
