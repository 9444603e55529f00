"""`/cache/{cache}`: a value under a key, in the shape of Momento's HTTP API."""

from typing import Any
from uuid import uuid4

from django.core.exceptions import RequestDataTooBig
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.authentication import BareAuthentication
from accounts.errors import ApiError
from accounts.requests import IDEMPOTENCY_KEY, caller, claimed, integer, moment, wrong
from accounts.shapes import ERRORS, query
from adapters import caches
from adapters.caches import Cause

REFUSALS = {status: shape for status, shape in ERRORS.items() if status != 406}
BYTES = {"application/octet-stream": OpenApiTypes.BINARY}
CACHE = OpenApiParameter("cache", str, OpenApiParameter.PATH, description="One of EVENTS_CACHES.")
PARAMETERS = [
    CACHE,
    query("key", "The key as text; either this or `key_base64`."),
    query("key_base64", "The key as URL-safe base64."),
    query("token", "The credential, instead of the Authorization header."),
]
TTL = OpenApiParameter(
    "ttl_seconds",
    {"type": "integer", "minimum": 1, "maximum": caches.TTL_MAX},
    OpenApiParameter.QUERY,
    description="For how long it is kept.",
    required=True,
)
EVENT = [
    IDEMPOTENCY_KEY,
    query("time", "When what this comes from happened: where a later change has been made, this one is passed over."),
]


class WhateverIsAccepted(BaseContentNegotiation):
    """Bytes are bytes and refusals JSON, whatever the caller would like best."""

    def select_parser(self, _request: Request, parsers: Any) -> Any:
        return parsers[0]

    def select_renderer(self, _request: Request, renderers: Any, _format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


class CachedValue(APIView):
    authentication_classes = (BareAuthentication,)
    content_negotiation_class = WhateverIsAccepted

    @extend_schema(
        operation_id="cache_get",
        summary="The bytes under a key",
        parameters=PARAMETERS,
        responses={(200, "application/octet-stream"): OpenApiTypes.BINARY, **REFUSALS},
    )
    def get(self, request: Request, cache: str) -> HttpResponse:
        caller(request).require_scope("cache:read")
        item = caches.get(caches.find(cache), _key(request))
        if item is None:
            raise ApiError(404, "unknown_key", "There is nothing under this key, or not any more.")
        return HttpResponse(item.value, content_type="application/octet-stream")

    @extend_schema(
        operation_id="cache_set",
        summary="Keep bytes under a key",
        parameters=[*PARAMETERS, TTL, *EVENT],
        request=BYTES,
        responses={204: None, **REFUSALS},
    )
    def put(self, request: Request, cache: str) -> Response:
        caller(request).require_scope("cache:write")
        found, key = caches.find(cache), _key(request)
        ttl = integer(request, "ttl_seconds", 0, least=1)
        if not 1 <= ttl <= caches.TTL_MAX:
            raise wrong("ttl_seconds", f"1-{caches.TTL_MAX}")
        caches.put(found, key, raw_body(request), ttl, _cause(request))
        return Response(status=204)

    @extend_schema(
        operation_id="cache_delete",
        summary="Delete what is under a key",
        parameters=[*PARAMETERS, *EVENT],
        responses={204: None, **REFUSALS},
    )
    def delete(self, request: Request, cache: str) -> Response:
        caller(request).require_scope("cache:write")
        caches.delete(caches.find(cache), _key(request), _cause(request))
        return Response(status=204)


def raw_body(request: Request) -> bytes:
    """The body as it was sent. Raises ApiError 413."""
    try:
        return bytes(request._request.body)
    except RequestDataTooBig:
        raise ApiError(413, "too_large", "The body is too large (BATCH_MAX_BYTES).") from None


def _key(request: Request) -> bytes:
    key = request.query_params.get("key")
    if key is not None and "\ufffd" in key:  # What Django makes of bytes that are no UTF-8.
        raise wrong("key", "UTF-8: other bytes go into key_base64")
    return caches.key_of(key, request.query_params.get("key_base64"))


def _cause(request: Request) -> Cause | None:
    """The event that this change comes from, where it is said when that happened; its id is the Idempotency-Key."""
    happened_at = moment(request, "time")
    if happened_at is None:
        return None
    claim = claimed(request, "cache")
    return Cause(happened_at.timestamp(), f"{caller(request)} {claim.key if claim else uuid4()}")
