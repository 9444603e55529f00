"""Handlers: the functions that do tasks, registered by type.

Any installed app puts its own into a module `task_handlers`:

    @task_handler("report")
    def report(payload, progress):
        progress(0.5, "half of the pages")
        return {"pages": 7}
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol, TypeVar
from uuid import UUID

from django.conf import settings
from django.utils.module_loading import autodiscover_modules

from accounts.errors import ApiError


class Progress(Protocol):
    task_id: UUID  # The same in each attempt: for what must not be done twice.

    def __call__(self, fraction: float, note: str = "") -> None:
        """Tells how far the task is, 0 to 1; listeners and the row get it at most four times a second.

        Raises Cancelled when the task was cancelled, or is not this worker's any more: call it where work can stop.
        """


class Handler(Protocol):
    """Does a task -> its result, JSON up to MESSAGE_MAX_BYTES.

    It may run more than once: after Temporary, and where a worker dies. What it raises is the task's error.
    """

    def __call__(self, payload: Any, progress: Progress, /) -> Any: ...


class Temporary(Exception):
    """What a handler raises where it may go well later: it runs again, after `retry_after` seconds or more."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Cancelled(BaseException):
    """The task was cancelled. Not an Exception, so that a handler's `except Exception` does not swallow it."""


class LostClaim(Cancelled):
    """Somebody else has the task now, or nobody: what this worker does is worth nothing any more."""


class TimedOut(BaseException):
    """The task has run for TASK_TIMEOUT seconds."""


Registered = TypeVar("Registered", bound=Callable[..., Any])

_handlers: dict[str, Handler] = {}


def task_handler(type: str) -> Callable[[Registered], Registered]:
    """Registers a handler. Raises ValueError for a type that has one."""

    def register(handler: Registered) -> Registered:
        if _handlers.setdefault(type, handler) is not handler:
            raise ValueError(f"There are two handlers for tasks of type {type!r}.")
        return handler

    return register


def find(type: str) -> Handler | None:
    _discover()
    return _handlers.get(type)


def types() -> list[str]:
    _discover()
    return sorted(_handlers)


def require(type: str) -> str:
    """Raises ApiError 422 for a type that no handler here does; workers outside know their own."""
    if not settings.TASKS_QUEUE and find(type) is None:
        why = f"one of {', '.join(types())}: a handler is registered for these"
        raise ApiError(422, "refused", f"type: {why}.", fields={"type": why})
    return type


@cache
def _discover() -> None:
    autodiscover_modules("task_handlers")
