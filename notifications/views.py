"""The notification API. A view says who may and when; the services say what."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from django.utils import timezone
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.idempotency import Claim
from accounts.principals import Principal
from accounts.requests import (
    IDEMPOTENCY_KEY,
    PAGES,
    caller,
    claimed,
    cursor,
    integer,
    moment,
    page_limit,
    replied,
    require_id,
    seal_cursor,
    shaped,
    wrong,
)
from accounts.shapes import ERRORS, Error, query
from notifications import history, shapes
from notifications.drafts import draft, targets
from notifications.log import Draft, Refusal, Result, accept
from notifications.models import Message
from notifications.timeline import timeline
from realtime.authorizers import refusals_now, require_now
from realtime.topics import is_state

HISTORY = timedelta(days=7)
LOG_PAGE_MAX = 1000

SENT = PolymorphicProxySerializer(
    "Sent",
    [shapes.Accepted, shapes.AcceptedForUsers],  # type: ignore[list-item]  # config.schema knows them.
    resource_type_field_name=None,
    many=False,
)


class Notifications(APIView):
    @extend_schema(
        operation_id="send",
        summary="Send a notification",
        parameters=[IDEMPOTENCY_KEY],
        request=shapes.Notification,
        responses={202: SENT, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        notification = shaped(request.data, shapes.Notification)
        (result,) = accept([draft(notification, caller(request), claimed(request, "notifications"))])
        if result.refused:
            raise result.refused
        return replied(_reply(request.data, result), result.replayed)

    @extend_schema(
        operation_id="history",
        summary="A topic's messages, newest first",
        parameters=[
            query("user", "Messages to this user; a user's own by default."),
            query("topic", "Messages to this topic."),
            query("start", "From when; default: 7 days ago."),
            query("end", "Until when; default: now."),
            query("type", "Only these types, separated by commas."),
            query("q", "Only those whose data contains this text."),
            *PAGES,
        ],
        responses={200: shapes.Messages, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        name = _history_topic(request)
        now = timezone.now()
        place = cursor(request, tuple[datetime, int])
        if place and place[0].utcoffset() != timedelta(0):
            raise wrong("cursor", "the `next` of an earlier page")
        messages, after = history.search(
            name,
            start=moment(request, "start") or now - HISTORY,
            end=moment(request, "end") or now,
            types=[type for type in request.query_params.get("type", "").replace("\0", "").split(",") if type],
            text=request.query_params.get("q", "").replace("\0", ""),
            reader=caller(request).user,
            before=place,
            limit=page_limit(request),
        )
        return Response({"messages": messages, "next": seal_cursor(*after) if after else None})

    @extend_schema(
        operation_id="recall_by_key",
        summary="Recall every message with a key",
        parameters=[
            query("key", "The key that they were sent with.", required=True),
            query("user", "Only those to this user."),
        ],
        responses={200: shapes.Recalled, **ERRORS},
    )
    def delete(self, request: Request) -> Response:
        caller(request).require_scope("notifications:write")
        key = request.query_params.get("key", "")
        if not key or "\0" in key:
            raise wrong("key", "the key that the messages were sent with")
        # SQLite takes the partial index only where a query repeats its condition.
        found = Message.objects.filter(key=key).exclude(key="")
        if user := request.query_params.get("user"):
            found = found.filter(topic__name=_own_topic(user))
        recalled = history.recall(found)
        return Response({"recalled": recalled, "more": len(recalled) == history.RECALL_AT_ONCE})


class Batch(APIView):
    max_body_setting = "BATCH_MAX_BYTES"

    @extend_schema(
        operation_id="send_batch",
        summary="Send up to 1000 notifications",
        parameters=[IDEMPOTENCY_KEY],
        request=shapes.BatchBody,
        responses={202: shapes.BatchResults, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        items = shaped(request.data, shapes.Batch).notifications
        principal, claim = caller(request), claimed(request, "batch")
        refused = None if principal.is_backend else _refused_topics(items, principal)
        results = accept([_try_draft(item, index, principal, claim, refused) for index, item in enumerate(items)])
        for result in results:
            if result.refused and result.refused.code == "idempotency_mismatch":
                raise result.refused
        body = {"results": [_batch_result(item, result) for item, result in zip(items, results, strict=True)]}
        return replied(body, any(result.replayed for result in results))


class OneNotification(APIView):
    @extend_schema(
        operation_id="message",
        summary="A message and what happened to it",
        responses={200: shapes.MessageWithTimeline, 410: Error, **ERRORS},
    )
    def get(self, request: Request, message_id: UUID) -> Response:
        principal = caller(request)
        user = principal.user
        if user is None:
            principal.require_scope("notifications:read")
        message = history.get(message_id)
        topic = message.topic.name
        if user is not None and not (history.is_for(message, user) and _may_subscribe(principal, topic)):
            raise ApiError(404, "unknown_message", "There is no message with this id.")
        if user is not None and not history.is_visible(message):
            raise ApiError(410, "gone", "This message is not there (any more).")
        shown = history.as_dict(message, message.topic.name)
        # The holder of a scoped token does not act for its user: it sees nobody's steps.
        told = timeline(message, None if user is None else principal.acts or "")
        key = message.key if user is None else ""
        return Response(shown | {"key": key, "timeline": told.steps, "totals": told.totals})

    @extend_schema(
        operation_id="recall",
        summary="Recall a message, or cancel a scheduled one",
        responses={204: None, **ERRORS},
    )
    def delete(self, request: Request, message_id: UUID) -> Response:
        caller(request).require_scope("notifications:write")
        history.get(message_id)
        history.recall(Message.objects.filter(pk=message_id))
        return Response(status=204)


class TopicMessages(APIView):
    @extend_schema(
        operation_id="topic_messages",
        summary="The log of one topic, oldest first",
        parameters=[
            query("since", "Only what comes after this offset; default 0.", int),
            query("limit", "25 by default, 1000 at most.", int),
        ],
        responses={200: shapes.TopicMessages, **ERRORS},
    )
    def get(self, request: Request, topic: str) -> Response:
        _require_history(request, topic)
        since = integer(request, "since", 0, least=0)
        limit = integer(request, "limit", 25, least=1, most=LOG_PAGE_MAX)
        return Response(history.topic_page(topic, since, limit, caller(request).user))


# --- What they share ------------------------------------------------------------------------------


def _require_history(request: Request, topic: str) -> None:
    """Raises ApiError 400, 403 and 503 unless the caller may read what a topic's log holds."""
    require_now(caller(request), "subscribe", topic)
    if is_state(topic):
        raise ApiError(403, "denied", "This topic has a state and no messages: subscribe to it.")


def _refused_topics(items: Sequence[Any], principal: Principal) -> Mapping[str, ApiError]:
    """Where the caller may not send what a batch holds: authorisers are asked about all of it at once.

    Raises ApiError 503 when one does not answer: as an item's result it would be kept for the Idempotency-Key.
    """
    topics: dict[str, None] = {}
    for item in items:
        with suppress(ApiError):  # The item's own result will say it.
            topics |= dict.fromkeys(targets(shaped(item, shapes.Notification).to))
    refused = refusals_now(principal, "publish", list(topics))
    for error in refused.values():
        if error.status == 503:
            raise error
    return refused


def _try_draft(
    item: Any, index: int, principal: Principal, claim: Claim | None, refused: Mapping[str, ApiError] | None
) -> Draft | Refusal:
    try:
        return draft(shaped(item, shapes.Notification, at=f"notifications[{index}]"), principal, claim, refused)
    except ApiError as error:
        return Refusal(error, claim)


def _batch_result(item: Any, result: Result) -> dict[str, Any]:
    if result.refused:
        return {"status": result.refused.status, "error": result.refused.as_dict()}
    return {"status": 202, **_reply(item, result)}


def _reply(notification: Any, result: Result) -> dict[str, Any]:
    if "users" not in notification["to"]:
        return msgspec.structs.asdict(result.accepted[0])
    return {
        "messages": [
            {"user": one.topic.removeprefix("user."), **msgspec.structs.asdict(one)} for one in result.accepted
        ]
    }


def _history_topic(request: Request) -> str:
    user, topic = request.query_params.get("user"), request.query_params.get("topic")
    if user is not None and topic is not None:
        raise wrong("user", "either user or topic")
    if topic is None:
        user = user if user is not None else caller(request).user
        if user is None:
            raise wrong("user", "user= or topic= says whose messages")
        topic = _own_topic(user)
    _require_history(request, topic)
    return topic


def _own_topic(user: str) -> str:
    return f"user.{require_id('user', user)}"


def _may_subscribe(principal: Principal, topic: str) -> bool:
    """Raises ApiError 503 when that cannot be found out now."""
    error = refusals_now(principal, "subscribe", [topic]).get(topic)
    if error and error.status == 503:
        raise error
    return error is None
