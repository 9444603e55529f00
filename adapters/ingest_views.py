"""`POST /api/ingest/{source}`: records by signed HTTP, as Standard Webhooks has it (standardwebhooks.com)."""

from typing import Annotated, Literal

import msgspec
from django.core.exceptions import RequestDataTooBig
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from msgspec import UNSET, Meta, Struct, UnsetType
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.shapes import ERRORS, Problem
from accounts.signatures import TOLERANCE, verify_request
from accounts.throttles import throttle_address
from adapters.ingest import Record, Result, ingest
from adapters.ingest_settings import Source, sources

BATCH_MOST = 100


class IngestResult(Struct, omit_defaults=True):
    """What became of a record. `made`: ids of its messages, or of its task. What is refused should come again."""

    id: str
    status: Literal["accepted", "refused", "dead"]
    made: list[str] | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class IngestResults(Struct):
    results: list[IngestResult]


class _Item(Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(min_length=1)]
    body: msgspec.Raw  # Judged by its handler alone.


class _Records(Struct, forbid_unknown_fields=True):
    records: Annotated[list[_Item], Meta(min_length=1, max_length=BATCH_MOST)]


def _header(name: str, description: str) -> OpenApiParameter:
    return OpenApiParameter(name, str, OpenApiParameter.HEADER, description=description, required=True)


class Ingest(APIView):
    """The signature is the credential: no other is looked at, and so nothing can be done with a browser's session."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()

    @extend_schema(
        operation_id="ingest",
        summary="Hand in what a source of INGEST_SOURCES has: one record, or a batch of up to 100",
        auth=[],
        parameters=[
            _header("webhook-id", "The record's id: the same each time that it is sent."),
            _header("webhook-timestamp", "Epoch seconds, at most 5 minutes off."),
            _header("webhook-signature", "`v1,` and the HMAC-SHA256 of id, timestamp and body; several by spaces."),
        ],
        request=OpenApiTypes.OBJECT,
        responses={202: IngestResults, **ERRORS},
    )
    def post(self, request: Request, source: str) -> Response:
        sender, body = _verified(request, source)
        if sender.batch:
            results = ingest(sender, _records(body))
        else:
            results = ingest(sender, [Record(request.headers["webhook-id"], body)])
            if results[0].error and not results[0].done:
                raise results[0].error  # Senders come again after an error, and only then.
        return Response(IngestResults([_shown(result) for result in results]), status=202)


def _verified(request: Request, name: str) -> tuple[Source, bytes]:
    """The source and its body. Raises ApiError 401, 404, 413, and 429 for who is wrong too often."""
    try:
        body = request._request.body
    except RequestDataTooBig:
        raise ApiError(413, "too_large", "The body is too large (BATCH_MAX_BYTES).") from None
    source = sources().get(name)
    if source is not None and verify_request(source.secrets, request.headers, body):
        return source, body
    throttle_address(request.META.get("REMOTE_ADDR"))  # Who guesses is slowed down.
    if source is None:
        raise ApiError(404, "unknown_source", "There is no source with this name.")
    raise ApiError(
        401,
        "unauthenticated",
        f"This needs webhook-id, -timestamp (at most {TOLERANCE} s off) and -signature, made with the source's secret.",
    )


def _records(body: bytes) -> list[Record]:
    """The records of a batch, each as it was sent. Raises ApiError 400."""
    try:
        items = msgspec.json.decode(body, type=_Records).records
    except msgspec.ValidationError as error:
        raise ApiError(400, "malformed", f"{error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "malformed_json", f"The body is not JSON that is taken here: {error}.") from error
    return [Record(item.id, bytes(item.body)) for item in items]


def _shown(result: Result) -> IngestResult:
    if result.error is None:
        return IngestResult(result.id, result.status, made=list(result.made))
    problem = Problem(result.error.code, result.error.message, result.error.fields or {})
    return IngestResult(result.id, result.status, error=problem)
