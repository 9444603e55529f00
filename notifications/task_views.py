"""The task API: for users and services what is to be done, for workers outside how far they are."""

from typing import Any, cast, get_args
from uuid import UUID

import msgspec
from django.conf import settings
from drf_spectacular.utils import extend_schema
from msgspec import UNSET
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.principals import Principal, valid_id
from accounts.requests import caller, cursor, page_limit, seal_cursor, shaped, wrong
from accounts.shapes import ERRORS, Error, query
from notifications import handlers, handoff, idempotency, task_shapes, work
from notifications.drafts import checked_type
from notifications.handlers import Cancelled
from notifications.models import Task
from notifications.task_shapes import State
from notifications.views import IDEMPOTENCY_KEY

EVERY_REFUSAL = {404: Error, **ERRORS}


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
        key = request.headers.get("Idempotency-Key")
        task_id, replayed = work.create(
            _for_whom(caller(request), None if wanted.user is UNSET else wanted.user),
            _known(checked_type(wanted.type)),
            msgspec.json.encode(None if payload is UNSET else payload),
            None if key is None else idempotency.Claim.of(caller(request), "tasks", key, request._request.body),
        )
        if not replayed:
            handoff.hand(task_id)
        headers = {"Idempotent-Replayed": "true"} if replayed else None
        return Response(task_shapes.NewTask(str(task_id)), status=202, headers=headers)

    @extend_schema(
        operation_id="tasks",
        summary="Tasks, newest first",
        parameters=[
            query("state", "Only these: queued, running, done, failed or cancelled."),
            query("user", "Only this user's; a user's own by default."),
            query("cursor", "The `next` of the page before."),
            query("limit", "25 by default, 100 at most.", int),
        ],
        responses={200: task_shapes.Tasks, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        principal, user = caller(request), request.query_params.get("user")
        found = Task.objects.all()
        if not principal.is_backend or user is not None:
            found = found.filter(user=_for_whom(principal, user, "tasks:read"))
        else:
            principal.require_scope("tasks:read")
        if (state := request.query_params.get("state")) is not None:
            if state not in get_args(State):
                raise wrong("state", f"one of {', '.join(get_args(State))}")
            found = found.filter(state=state)
        if place := cursor(request, tuple[UUID]):
            found = found.filter(pk__lt=place[0])
        limit = page_limit(request)
        rows = list(found.defer("payload", "result").order_by("-pk")[: limit + 1])
        after = seal_cursor(rows[limit - 1].pk) if len(rows) > limit else None
        return Response(task_shapes.Tasks([task_shapes.Task(**_shown(row)) for row in rows[:limit]], after))


class OneTask(APIView):
    @extend_schema(
        operation_id="task",
        summary="A task: how far it is, and what came out of it",
        responses={200: task_shapes.TaskInFull, **EVERY_REFUSAL},
    )
    def get(self, request: Request, task_id: UUID) -> Response:
        task = _own(caller(request), task_id, "tasks:read")
        payload, result = (msgspec.Raw(text.encode()) for text in (task.payload, task.result))
        return Response(task_shapes.TaskInFull(**_shown(task), payload=payload, result=result))

    @extend_schema(
        operation_id="cancel_task",
        summary="Cancel a task: at once if it waits, at its handler's next report if it runs",
        responses={204: None, **EVERY_REFUSAL},
    )
    def delete(self, request: Request, task_id: UUID) -> Response:
        work.cancel(_own(caller(request), task_id, "tasks:write"))
        return Response(status=204)


class Retry(APIView):
    @extend_schema(
        operation_id="retry_task",
        summary="Have a failed or cancelled task done again",
        request=None,
        responses={202: task_shapes.NewTask, **EVERY_REFUSAL},
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
        responses={204: None, **EVERY_REFUSAL},
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
        responses={204: None, **EVERY_REFUSAL},
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
        responses={204: None, **EVERY_REFUSAL},
    )
    def post(self, request: Request, task_id: UUID) -> Response:
        told = shaped(request.data, task_shapes.TaskFailure)
        if not work.fail(_claimed(caller(request), task_id, told.claim), told.error):
            raise _lost()
        return Response(status=204)


# --- What they share ------------------------------------------------------------------------------


def _for_whom(principal: Principal, user: str | None, scope: str = "tasks:write") -> str:
    """Whose task it is: services and operators name the user, users act for themselves. Raises ApiError 400 or 403."""
    if principal.is_backend:
        principal.require_scope(scope)
        if not valid_id(user):
            raise wrong("user", "1-200 bytes of printable text without comma: whose task it is")
        return cast(str, user)
    if principal.acts is None:
        raise ApiError(403, "denied", "A scoped token is for its topics only.")
    if user not in (None, principal.acts):
        raise ApiError(403, "denied", "A user has tasks of their own only.")
    return principal.acts


def _known(type: str) -> str:
    """Raises ApiError 422 for a type that no handler here does; workers outside know their own."""
    if not settings.TASKS_QUEUE and handlers.find(type) is None:
        why = f"one of {', '.join(handlers.types())}: a handler is registered for these"
        raise ApiError(422, "refused", f"type: {why}.", fields={"type": why})
    return type


def _own(principal: Principal, task_id: UUID, scope: str) -> Task:
    """A task that the caller may see. Raises ApiError 403, and 404 also for somebody else's."""
    if principal.is_backend:
        principal.require_scope(scope)
    elif principal.acts is None:
        raise ApiError(403, "denied", "A scoped token is for its topics only.")
    task = Task.objects.filter(pk=task_id).first()
    if task is None or (not principal.is_backend and task.user != principal.acts):
        raise work.unknown()
    return task


def _claimed(principal: Principal, task_id: UUID, claim: str) -> Task:
    """The task that a worker outside holds. Raises ApiError 403, 404, or 409 when it does not hold it (any more)."""
    principal.require_scope("tasks:write")
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
