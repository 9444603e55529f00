"""The task API: for users and services what is to be done, for workers outside how far they are."""

from typing import Any, get_args
from uuid import UUID

import msgspec
from drf_spectacular.utils import extend_schema
from msgspec import UNSET
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import IDEMPOTENCY_KEY, PAGES, caller, claimed, newest_first, on_behalf, replied, shaped, wrong
from accounts.shapes import ERRORS, query
from notifications import handlers, handoff, task_shapes, work
from notifications.drafts import checked_type
from notifications.handlers import Cancelled
from notifications.models import Task
from notifications.task_shapes import State


class Tasks(APIView):
    @extend_schema(
        operation_id="create_task",
        summary="Have something done in the background",
        parameters=[IDEMPOTENCY_KEY],
        request=task_shapes.TaskRequest,
        responses={202: task_shapes.NewTask, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        wanted = shaped(request.data, task_shapes.TaskRequest)
        if wanted.data is not UNSET and wanted.payload is not UNSET:
            raise wrong("payload", "either payload or data")
        payload = {"data": wanted.data} if wanted.data is not UNSET else wanted.payload
        task_id, replayed = work.create(
            on_behalf(caller(request), None if wanted.user is UNSET else wanted.user, "tasks:write"),
            handlers.require(checked_type(wanted.type)),
            msgspec.json.encode(None if payload is UNSET else payload),
            claimed(request, "tasks"),
        )
        if not replayed:
            handoff.hand(task_id)
        return replied(task_shapes.NewTask(str(task_id)), replayed)

    @extend_schema(
        operation_id="tasks",
        summary="Tasks, newest first",
        parameters=[
            query("state", "Only these: queued, running, done, failed or cancelled."),
            query("user", "Only this user's; a user's own by default."),
            *PAGES,
        ],
        responses={200: task_shapes.Tasks, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        principal, user = caller(request), request.query_params.get("user")
        found = Task.objects.all()
        if not principal.is_backend or user is not None:
            found = found.filter(user=on_behalf(principal, user, "tasks:read"))
        else:
            principal.require_scope("tasks:read")
        if (state := request.query_params.get("state")) is not None:
            if state not in get_args(State):
                raise wrong("state", f"one of {', '.join(get_args(State))}")
            found = found.filter(state=state)
        rows, after = newest_first(request, found.defer("payload", "result"))
        return Response(task_shapes.Tasks([task_shapes.Task(**_shown(row)) for row in rows], after))


class OneTask(APIView):
    @extend_schema(
        operation_id="task",
        summary="A task: how far it is, and what came out of it",
        responses={200: task_shapes.TaskInFull, **ERRORS},
    )
    def get(self, request: Request, task_id: UUID) -> Response:
        task = _own(caller(request), task_id, "tasks:read")
        payload, result = (msgspec.Raw(text.encode()) for text in (task.payload, task.result))
        return Response(task_shapes.TaskInFull(**_shown(task), payload=payload, result=result))

    @extend_schema(
        operation_id="cancel_task",
        summary="Cancel a task: at once if it waits, at its handler's next report if it runs",
        responses={204: None, **ERRORS},
    )
    def delete(self, request: Request, task_id: UUID) -> Response:
        work.cancel(_own(caller(request), task_id, "tasks:write"))
        return Response(status=204)


class Retry(APIView):
    @extend_schema(
        operation_id="retry_task",
        summary="Have a failed or cancelled task done again",
        request=None,
        responses={202: task_shapes.NewTask, **ERRORS},
    )
    def post(self, request: Request, task_id: UUID) -> Response:
        task = _own(caller(request), task_id, "tasks:write")
        work.retry(task)
        handoff.hand(task.id)
        return Response(task_shapes.NewTask(str(task.id)), status=202)


class ReportProgress(APIView):
    @extend_schema(
        operation_id="report_task_progress",
        summary="A worker outside tells how far it is; 409 means: stop",
        request=task_shapes.TaskProgress,
        responses={204: None, **ERRORS},
    )
    def post(self, request: Request, task_id: UUID) -> Response:
        told = shaped(request.data, task_shapes.TaskProgress)
        task = _claimed(caller(request), task_id, told.claim)
        try:
            work.report(task, told.progress, told.note)
        except Cancelled:
            raise _lost() from None
        return Response(status=204)


class ReportDone(APIView):
    @extend_schema(
        operation_id="report_task_done",
        summary="A worker outside has done a task",
        request=task_shapes.TaskResult,
        responses={204: None, **ERRORS},
    )
    def post(self, request: Request, task_id: UUID) -> Response:
        told = shaped(request.data, task_shapes.TaskResult)
        task = _claimed(caller(request), task_id, told.claim)
        if not work.finish(task, msgspec.json.encode(told.result)):
            raise _lost()
        return Response(status=204)


class ReportFailed(APIView):
    @extend_schema(
        operation_id="report_task_failed",
        summary="A worker outside could not do a task",
        request=task_shapes.TaskFailure,
        responses={204: None, **ERRORS},
    )
    def post(self, request: Request, task_id: UUID) -> Response:
        told = shaped(request.data, task_shapes.TaskFailure)
        if not work.fail(_claimed(caller(request), task_id, told.claim), told.error):
            raise _lost()
        return Response(status=204)


# --- What they share ------------------------------------------------------------------------------


def _own(principal: Principal, task_id: UUID, scope: str) -> Task:
    """A task that the caller may see. Raises ApiError 403, and 404 also for somebody else's."""
    if principal.is_backend:
        principal.require_scope(scope)
    found = Task.objects.filter(pk=task_id)
    task = (found if principal.is_backend else found.filter(user=principal.require_user())).first()
    if task is None:
        raise work.unknown()
    return task


def _claimed(principal: Principal, task_id: UUID, claim: str) -> Task:
    """The task that a worker outside holds. Raises ApiError 403, 404, or 409 when it does not hold it (any more)."""
    principal.require_scope("tasks:write")  # Users have none: they do not report for workers.
    task = _own(principal, task_id, "tasks:write")
    if task.claim != claim:
        raise _lost()
    return task


def _lost() -> ApiError:
    return ApiError(409, "lost_claim", "This claim does not hold the task (any more): stop working on it.")


def _shown(task: Task) -> dict[str, Any]:
    return {
        "id": str(task.id),
        "user": task.user,
        "type": task.type,
        "state": task.state,
        "progress": task.progress,
        "note": task.note,
        "error": task.error or None,
        "attempts": task.attempts,
        "cancel_requested": task.cancel_requested,
        "created_at": task.created_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
    }
