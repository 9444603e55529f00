"""Work in the background."""

from typing import Any

from fanfare_client import calls
from fanfare_client.calls import Call, Page, given, path
from fanfare_client.shapes import Task


def create(
    payload: Any = None, *, type: str = "echo", user: str | None = None, idempotency_key: str | None = None
) -> Call[str]:
    """Asks for a task -> its id. Services say for which user."""
    body = {"type": type, "payload": payload, **given(user=user)}
    return calls.post_once(path("tasks"), calls.inside("id", str), body, idempotency_key)


def get(id: str) -> Call[Task]:
    """A task, with its payload and result."""
    return calls.get(path("tasks", id), calls.one(Task))


def history(*, user: str | None = None, state: str | None = None, page_size: int | None = None) -> Call[Page[Task]]:
    """Newest first, of one user or in one state; `page_size`: how many are fetched at a time."""
    return calls.get(path("tasks"), calls.page("tasks", Task), user=user, state=state, limit=page_size)


def cancel(id: str) -> Call[None]:
    """Ends a task that waits; one that runs ends where it next says how far it is."""
    return calls.delete(path("tasks", id), calls.nothing)


def retry(id: str) -> Call[None]:
    """Does a task again that has failed or was cancelled."""
    return calls.post_unsafe(path("tasks", id, "retry"), calls.nothing, {})


def progress(id: str, claim: str, fraction: float, note: str = "") -> Call[None]:
    """For workers outside: how far the task is, from 0 to 1. 409 `lost_claim` means to stop."""
    return calls.post(
        path("tasks", id, "progress"), calls.nothing, {"claim": claim, "progress": fraction, "note": note}
    )


def done(id: str, claim: str, result: Any = None) -> Call[None]:
    """For workers outside: what came out."""
    return calls.post_unsafe(path("tasks", id, "done"), calls.nothing, {"claim": claim, "result": result})


def failed(id: str, claim: str, error: str) -> Call[None]:
    """For workers outside: why it failed, in words for its user."""
    return calls.post_unsafe(path("tasks", id, "failed"), calls.nothing, {"claim": claim, "error": error})
