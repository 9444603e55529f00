"""Every request gets an id: taken from `X-Request-Id` when it is a sane one, bound to its log lines, sent back.

With the caller's address it goes into the audit, too.
"""

import re
import uuid
from collections.abc import Callable

import structlog
from django.http import HttpRequest, HttpResponse

from accounts import audit
from config.cors import API

_SANE = re.compile(r"[\w.-]{1,64}\Z")


class RequestIdMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _SANE.match(given) else uuid.uuid4().hex
        address = request.META.get("REMOTE_ADDR") or ""
        with structlog.contextvars.bound_contextvars(request_id=request_id), audit.origin(request_id, address):
            response = self.get_response(request)
        response["X-Request-Id"] = request_id
        if request.path.startswith(API):  # Somebody's data, or a credential: not for caches.
            response.setdefault("Cache-Control", "no-store")
        return response
