"""`POST /api/events`, in the shape of EventBridge, and `POST /topics/{cache}/{topic}`, in that of Momento."""

from collections.abc import Mapping
from typing import Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import msgspec
from django.db import transaction
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, PolymorphicProxySerializer, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import idempotency
from accounts.authentication import BareAuthentication
from accounts.idempotency import Claim
from accounts.models import IdempotencyKey
from accounts.requests import IDEMPOTENCY_KEY, caller, claimed, shaped, wrong
from accounts.shapes import ERRORS, query
from adapters import caches
from adapters.cache_views import CACHE, REFUSALS, WhateverIsAccepted, raw_body
from adapters.ingest import Record, Result, ingest
from adapters.ingest_settings import EVENTS
from notifications import event_shapes as shapes
from notifications import sequences
from notifications.drafts import draft
from notifications.events import published
from notifications.log import accept
from realtime.strict_json import RefusedJSON, loads

TRIES = 1  # Who waits for the answer has it, and need not come again: what is refused is dead at once.

SENT = PolymorphicProxySerializer(
    "EventOrEntries",
    [shapes.Event, shapes.Entries],  # type: ignore[list-item]  # config.schema knows them.
    resource_type_field_name=None,
    many=False,
)
REPLY = PolymorphicProxySerializer(
    "EventReply",
    [shapes.EventAccepted, shapes.EntriesResult],  # type: ignore[list-item]
    resource_type_field_name=None,
    many=False,
)


class Events(APIView):
    max_body_setting = "BATCH_MAX_BYTES"

    @extend_schema(
        operation_id="put_events",
        summary="Put an event of EventBridge, or up to 10 as PutEvents does",
        parameters=[IDEMPOTENCY_KEY],
        request=SENT,
        responses={200: REPLY, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        principal = caller(request)
        principal.require_scope("events:write")
        events, many = _events(request.data)
        kept = _kept(claimed(request, "events"))
        if kept and kept.reply:
            return Response(msgspec.json.decode(kept.reply), headers={"Idempotent-Replayed": "true"})
        named = [_named(event, kept, place) for place, event in enumerate(events)]
        records = [Record(f"{principal} {id}", msgspec.json.encode(event)) for id, event in named]
        results = ingest(EVENTS, records, TRIES)
        if not many and (error := results[0].error):
            if kept and error.retry_after is None:
                kept.delete()  # Nothing was done under it: a better event may have it.
            raise error
        ids = [id for id, _event in named]
        reply = _entries_result(ids, results) if many else shapes.EventAccepted(ids[0])
        if kept and not any(result.error and result.error.retry_after is not None for result in results):
            idempotency.keep_one(kept, reply)
        return Response(reply)


def _events(body: Any) -> tuple[list[dict[str, Any]], bool]:
    """The events, and whether they came as entries. Raises ApiError 400 for what has the shape of neither."""
    if not isinstance(body, dict) or not body:
        raise wrong("body", "an event, or Entries")
    if "Entries" not in body:
        return [body], False
    return [_from_entry(entry) for entry in shaped(body, shapes.Entries).Entries], True


def _from_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What EventBridge makes of an entry. What is wrong with it stays: its event is refused for that."""
    names = {"DetailType": "detail-type", "Source": "source", "Resources": "resources", "Time": "time"}
    event = {ours: entry[theirs] for theirs, ours in names.items() if theirs in entry}
    if "Detail" in entry:
        event["detail"] = _parsed(entry["Detail"])
    return event


def _parsed(detail: Any) -> Any:
    try:
        return loads(detail.encode()) if isinstance(detail, str) else detail
    except RefusedJSON:
        return detail


def _kept(claim: Claim | None) -> IdempotencyKey | None:
    """What is known of this Idempotency-Key. Raises ApiError 409, 422."""
    if claim is None:
        return None
    with transaction.atomic():
        return idempotency.take_one(claim)


def _named(event: dict[str, Any], kept: IdempotencyKey | None, place: int) -> tuple[str, dict[str, Any]]:
    """Its id, and the event with it. One that has none gets both id and time: the same under an Idempotency-Key."""
    if isinstance(given := event.get("id"), str) and given:
        return given, event
    id = str(uuid5(NAMESPACE_URL, f"{kept.pk}/{place}") if kept else uuid4())
    at = kept.created_at if kept else timezone.now()
    return id, {"time": at.isoformat(), "id": id, **event}


def _entries_result(ids: list[str], results: list[Result]) -> shapes.EntriesResult:
    entries = [
        shapes.EntryResult(ErrorCode=result.error.code, ErrorMessage=result.error.message)
        if result.error
        else shapes.EntryResult(EventId=id)
        for id, result in zip(ids, results, strict=True)
    ]
    return shapes.EntriesResult(sum(result.error is not None for result in results), entries)


class PublishToTopic(APIView):
    authentication_classes = (BareAuthentication,)
    content_negotiation_class = WhateverIsAccepted

    @extend_schema(
        operation_id="topic_publish",
        summary="Publish to a topic, in Momento's shape",
        parameters=[
            CACHE,
            OpenApiParameter("topic", str, OpenApiParameter.PATH, description="1-200 bytes of printable text."),
            IDEMPOTENCY_KEY,
            query("token", "The credential, instead of the Authorization header."),
        ],
        request={"text/plain": OpenApiTypes.STR, "application/octet-stream": OpenApiTypes.BINARY},
        responses={204: None, **REFUSALS},
    )
    def post(self, request: Request, cache: str, topic: str) -> Response:
        found = caches.find(cache)
        data = sequences.data_of(raw_body(request), request.headers.get("Content-Type", ""))
        claim = claimed(request, "topics", cache, topic)
        (result,) = accept([draft(published(found, topic, data), caller(request), claim)])
        if result.refused:
            raise result.refused
        return Response(status=204, headers={"Idempotent-Replayed": "true"} if result.replayed else None)
