"""Tasks, background work for users: their rows, and every way from one state to the next.

Each change is one update that names the claim it rests on: of several who want it at once, one gets it. The end of a
task and the message about it are one transaction. Who starts tasks, and where, is up to the edges.
"""

import logging
import random
import secrets
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet, Value
from django.db.models.functions import Coalesce
from django.utils import timezone

from accounts import idempotency, users
from accounts.errors import ApiError
from notifications.handlers import Cancelled, LostClaim
from notifications.log import Draft, accept
from notifications.models import Task
from notifications.outward import owe_task
from realtime import bus, protocol
from realtime.frames import Event

logger = logging.getLogger(__name__)

DEATHS_MAX = 3
DELAY_MAX = 300.0  # Seconds between two attempts, unless the handler asks for more.
DELAY_LIMIT = 24 * 3600.0
GRACE = timedelta(seconds=5)  # So long the first hand-off has to arrive.
NOTE_MAX, ERROR_MAX, TEXT_MAX = 200, 1000, 1000
ROWS_AT_ONCE = 1000

DEAD = f"Its worker died {DEATHS_MAX} times while it ran: killed, out of memory, or a crash."

State = Task.State
OPEN = (State.QUEUED, State.RUNNING)


# --- What callers do ------------------------------------------------------------------------------


def create(user: str, type: str, payload: bytes, claim: idempotency.Claim | None = None) -> tuple[UUID, bool]:
    """Stores a task, queued -> (its id, whether this request had been carried out before). `payload` is JSON.

    Raises ApiError 409 or 422 for a claim that does not hold.
    """
    with transaction.atomic():
        row = idempotency.take_one(claim) if claim else None
        if row and row.reply:
            return msgspec.json.decode(row.reply, type=UUID), True
        users.ensure([user])
        task = Task(user=user, type=type, payload=payload.decode())
        task.save(force_insert=True)
        if row:
            idempotency.keep_one(row, task.id)
        _tell(task)
    return task.id, False


def cancel(task: Task) -> None:
    """Ends a task that waits; one that runs ends where its handler asks next, if it does.

    Raises ApiError 409 for one that has ended otherwise.
    """
    while task.state != State.CANCELLED:
        if task.state not in OPEN:
            raise ApiError(409, "wrong_state", f"The task is {task.state}: there is nothing to cancel.")
        if task.lease_until is None:  # Nobody runs it, or somebody outside, who learns it from a lost claim.
            if _end(task, State.CANCELLED):
                return
        elif _held(task).update(cancel_requested=True):
            return
        _reload(task)


def retry(task: Task) -> None:
    """Queues a failed or cancelled task again, as new. Raises ApiError 409 for any other."""
    with transaction.atomic():
        queued = Task.objects.filter(pk=task.pk, state__in=(State.FAILED, State.CANCELLED)).update(
            state=State.QUEUED, progress=0.0, note="", result="null", error="", attempts=0, deaths=0, claim="",
            lease_until=None, handed_at=None, run_at=timezone.now(), cancel_requested=False, started_at=None,
            finished_at=None,
        )  # fmt: skip
        _reload(task)
        if not queued:
            raise ApiError(409, "wrong_state", f"The task is {task.state}: only failed and cancelled ones run again.")
        _tell(task)


def _reload(task: Task) -> None:
    try:
        task.refresh_from_db()
    except Task.DoesNotExist:  # Its user has been erased meanwhile.
        raise unknown() from None


def unknown() -> ApiError:
    return ApiError(404, "unknown_task", "There is no task with this id.")


# --- What workers do ------------------------------------------------------------------------------


def start(task_id: UUID) -> Task | None:
    """Takes a queued task for a worker of ours -> it, with its claim; None where it is taken, ended or not yet due."""
    now, claim = timezone.now(), new_claim()
    taken = Task.objects.filter(pk=task_id, state=State.QUEUED, handed_at=None, run_at__lte=now).update(
        state=State.RUNNING,
        claim=claim,
        lease_until=_lease(now),
        attempts=F("attempts") + 1,
        progress=0.0,
        note="",
        error="",
        started_at=Coalesce("started_at", Value(now)),
    )
    task = Task.objects.filter(pk=task_id, claim=claim).first() if taken else None
    if task is not None:
        _tell(task)
    return task


def renew(task: Task) -> None:
    """Keeps the claim for another lease. Raises LostClaim, or Cancelled when that was asked for."""
    if not _held(task).update(lease_until=_lease(timezone.now())):
        raise LostClaim
    if _held(task).filter(cancel_requested=True).exists():
        raise Cancelled


def report(task: Task, fraction: float, note: str) -> None:
    """Stores and publishes how far a task is. Raises LostClaim, or Cancelled when that was asked for."""
    task.state, task.progress, task.note = State.RUNNING, min(1.0, max(0.0, fraction)), _clean(note, NOTE_MAX)
    held = _held(task)
    if not held.filter(cancel_requested=False).update(
        state=task.state,
        progress=task.progress,
        note=task.note,
        started_at=Coalesce("started_at", Value(timezone.now())),
    ):
        raise Cancelled if held.exists() else LostClaim
    _tell(task)


def finish(task: Task, result: bytes) -> bool:
    """The end of a task that went well -> False when the claim is lost. `result` is JSON."""
    return _end(task, State.DONE, progress=1.0, result=result.decode())


def fail(task: Task, error: str) -> bool:
    """The end of a task that did not go well -> False when the claim is lost."""
    return _end(task, State.FAILED, error=_clean(error, ERROR_MAX))


def end_cancelled(task: Task) -> bool:
    """The end of a task whose handler has stopped -> False when the claim is lost."""
    return _end(task, State.CANCELLED)


def postpone(task: Task, error: str, retry_after: float) -> bool:
    """Queues a task again after a temporary error, or ends it after TASK_ATTEMPTS -> False when the claim is lost."""
    if task.attempts >= settings.TASK_ATTEMPTS:
        return fail(task, f"{error} (attempt {task.attempts}, the last)")
    if _held(task).filter(cancel_requested=True).exists():
        return end_cancelled(task)
    pause = random.uniform(0.0, min(DELAY_MAX, 2.0**task.attempts))  # noqa: S311 (no secret)
    pause = min(max(pause, retry_after), DELAY_LIMIT)
    return _requeue(task, error, timezone.now() + timedelta(seconds=pause))


def new_claim() -> str:
    return secrets.token_urlsafe(24)


# --- What beat does -------------------------------------------------------------------------------


def release_dead() -> None:
    """Takes tasks from workers that have not renewed their lease: they run elsewhere, or have killed too many."""
    for task in Task.objects.filter(state=State.RUNNING, lease_until__lte=timezone.now())[:ROWS_AT_ONCE]:
        try:
            _release(task)
        except Exception:  # One task that cannot be released must not keep the others.
            logger.exception("Task %s cannot be taken from its worker", task.id)


def _release(task: Task) -> None:
    if task.cancel_requested:
        end_cancelled(task)
    elif task.deaths + 1 >= DEATHS_MAX:
        fail(task, DEAD)
    else:
        _requeue(task, "Its worker died.", timezone.now(), deaths=F("deaths") + 1)


def waiting(limit: int) -> list[UUID]:
    """Tasks that should have been started by now, those that wait longest first."""
    now = timezone.now()
    overdue = Q(attempts=0, run_at__lte=now - GRACE) | Q(attempts__gt=0, run_at__lte=now)
    found = Task.objects.filter(overdue, state=State.QUEUED, handed_at=None).order_by("run_at")
    return list(found.values_list("pk", flat=True)[:limit])


def purge() -> None:
    """Deletes tasks older than TASKS_DAYS; those that nobody has ended by then fail first."""
    cutoff = timezone.now() - timedelta(days=settings.TASKS_DAYS)
    old = Task.objects.filter(pk__lt=UUID(int=int(cutoff.timestamp() * 1000) << 80))  # Ids begin with their time.
    for task in old.filter(state__in=OPEN)[:ROWS_AT_ONCE]:
        fail(task, "Nobody has finished it (TASKS_DAYS).")
    while ids := list(old.filter(finished_at__lt=cutoff).values_list("pk", flat=True)[:ROWS_AT_ONCE]):
        Task.objects.filter(pk__in=ids).delete()


# --- One change -----------------------------------------------------------------------------------


def _held(task: Task) -> QuerySet[Task]:
    """The task's row, as long as it is held by the claim that we know."""
    return Task.objects.filter(pk=task.pk, claim=task.claim, state__in=OPEN)


def _lease(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.TASK_LEASE_SECONDS)


def _requeue(task: Task, error: str, run_at: datetime, **changes: Any) -> bool:
    with transaction.atomic():
        task.error = _clean(error, ERROR_MAX)
        requeued = _held(task).update(
            state=State.QUEUED, claim="", lease_until=None, run_at=run_at, error=task.error, **changes
        )
        if requeued:
            task.state = State.QUEUED
            _tell(task)
    return bool(requeued)


def _end(
    task: Task, state: Task.State, *, progress: float | None = None, error: str = "", result: str = "null"
) -> bool:
    """The end and its message, both or neither -> False when somebody else has the task."""
    reached = task.progress if progress is None else progress
    with transaction.atomic():
        if not _held(task).update(
            state=state, progress=reached, error=error, result=result, claim="", lease_until=None,
            finished_at=timezone.now(),
        ):  # fmt: skip
            return False
        task.state, task.progress, task.error, task.result = state, reached, error, result
        _tell(task)
        owe_task(task)
        if state != State.CANCELLED:  # Somebody asked for that, and knows.
            accept([_message(task)])
    return True


def _message(task: Task) -> Draft:
    type, verb = ("task.finished", "Finished") if task.state == State.DONE else ("task.failed", "Failed")
    data = {"task": str(task.id), "text": f"{verb} task: {_label(task)}"} | (
        {"error": task.error} if task.error else {}
    )
    return Draft([f"user.{task.user}"], msgspec.json.encode(data), type=type)


def _label(task: Task) -> str:
    """What the user calls the task: its `data`, if that is a text."""
    payload = msgspec.json.decode(task.payload)
    data = payload.get("data") if isinstance(payload, dict) else payload
    text = data if isinstance(data, str) else task.type
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}…"


def _tell(task: Task) -> None:
    """The live event of a state, after commit: for who listens now."""
    topic = f"user.{task.user}"
    body = protocol.task(
        topic, str(task.id), task.type, str(task.state), task.progress, note=task.note, error=task.error
    )
    transaction.on_commit(lambda: bus.publish([Event(topic, body)]), robust=True)


def _clean(text: str, most: int) -> str:
    """A text from anywhere, as every database and client takes it."""
    return text.encode(errors="replace").decode().replace("\0", "")[:most]
