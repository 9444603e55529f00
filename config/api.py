"""How the API reads and writes JSON, and how it refuses."""

import logging
import math
from collections.abc import Mapping
from typing import IO, Any

import msgspec
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views import defaults
from rest_framework import exceptions
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.response import Response

from accounts.errors import ApiError
from config.cors import API
from realtime.strict_json import RefusedJSON, loads

logger = logging.getLogger(__name__)

CODES = {
    401: "unauthenticated",
    403: "denied",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    415: "unsupported_media_type",
    429: "rate_limited",
}


class StrictJSONParser(BaseParser):
    """Strict JSON up to a size: MESSAGE_MAX_BYTES, or the setting that the view names as `max_body_setting`."""

    media_type = "application/json"

    def parse(
        self, _stream: IO[Any], _media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        assert parser_context is not None
        setting = getattr(parser_context["view"], "max_body_setting", "MESSAGE_MAX_BYTES")
        most = getattr(settings, setting)
        try:
            body = parser_context["request"]._request.body
        except RequestDataTooBig:
            body = None
        if body is None or len(body) > most:
            raise ApiError(413, "too_large", f"The body has at most {most} bytes here ({setting}).")
        try:
            return loads(body)
        except RefusedJSON as error:
            raise ApiError(400, "malformed_json", f"The body is not JSON that is taken here: {error}.") from error


class JSONRenderer(BaseRenderer):
    media_type = "application/json"
    format = "json"
    charset = None

    def render(
        self, data: Any, _accepted_media_type: str | None = None, _renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        return b"" if data is None else msgspec.json.encode(data)


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    """Every refusal in the API's one shape; what is not a refusal goes on as a 500 with a traceback in the log."""
    refusal = _refusal(error)
    if refusal is None:
        return None
    if request := context.get("request"):
        logger.debug("Refused: %s %s: %d %s", request.method, request.path, refusal[0].status, refusal[0].code)
    return _response(*refusal)


def _refusal(error: Exception) -> tuple[ApiError, dict[str, str]] | None:
    """With the headers that go with it."""
    if isinstance(error, OperationalError | InterfaceError):  # Other errors of the database are ours: a 500.
        logger.warning("The database failed: %r", error)
        error = ApiError(503, "database_unavailable", "The database does not answer: try again.", retry_after=1)
    elif isinstance(error, Http404):
        error = exceptions.NotFound()
    if isinstance(error, exceptions.APIException):
        headers = {"WWW-Authenticate": error.auth_header} if hasattr(error, "auth_header") else {}
        wait = getattr(error, "wait", None)
        code = CODES.get(error.status_code, "malformed")
        refusal = ApiError(
            error.status_code, code, str(error.detail), retry_after=math.ceil(wait) if wait is not None else None
        )
        return refusal, headers
    return (error, {}) if isinstance(error, ApiError) else None


def server_error(request: HttpRequest) -> HttpResponse:
    """The 500 of a bug: nothing of it is shown, the log has the traceback."""
    if not request.path.startswith(API):
        return defaults.server_error(request)
    return JsonResponse(
        {"error": {"code": "internal_error", "message": "This failed here, not with you: the server's log says why."}},
        status=500,
    )


def _response(error: ApiError, headers: dict[str, str]) -> Response:
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    return Response({"error": error.as_dict()}, status=error.status, headers=headers)
