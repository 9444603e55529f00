"""The bodies of the task API: one definition each, for views, schema and tests."""

from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from notifications.shapes import UserId

State = Literal["queued", "running", "done", "failed", "cancelled"]
Claim = Annotated[str, Meta(min_length=1, max_length=100, description="The one that came with the task.")]


class TaskRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A task to do, with a payload; or just with a text."""

    type: Annotated[str, Meta(min_length=1, max_length=100, description="Which handler does it.")] = "echo"
    payload: Annotated[Any, Meta(description="Any JSON: what the handler gets.")] = UNSET
    data: Annotated[str, Meta(description='Short for `payload: {"data": …}`.')] | UnsetType = UNSET
    user: Annotated[UserId | UnsetType, Meta(description="For whom; services and operators say.")] = UNSET


class NewTask(Struct):
    id: str


class Task(Struct):
    """`progress` is from 0 to 1. `attempts`: how often it was started."""

    id: str
    user: str
    type: str
    state: State
    progress: float
    note: str
    error: str | None
    attempts: int
    cancel_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class TaskInFull(Task):
    payload: Any
    result: Any


class Tasks(Struct):
    tasks: list[Task]
    next: str | None


class TaskProgress(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How far a worker outside is."""

    claim: Claim
    progress: Annotated[float, Meta(ge=0, le=1)]
    note: Annotated[str, Meta(max_length=200)] = ""


class TaskResult(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What came out of a task."""

    claim: Claim
    result: Any = None


class TaskFailure(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Why a task failed, in words for its user."""

    claim: Claim
    error: Annotated[str, Meta(min_length=1, max_length=1000)]
