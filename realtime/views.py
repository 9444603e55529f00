"""The API over live connections."""

import re

from django.db import transaction
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import audit, revocations
from accounts.requests import caller, require_id, wrong
from accounts.revocations import Reason
from accounts.shapes import ERRORS


class OneConnection(APIView):
    @extend_schema(
        operation_id="close_connection",
        summary="Close a connection within a second; its client does not come back by itself",
        responses={204: None, **ERRORS},
    )
    def delete(self, request: Request, connection: str) -> Response:
        if not re.fullmatch(r"[0-9a-f]{32}", connection):
            raise wrong("connection", "the connectionId of its welcome")
        return _kick(request, f"connection:{connection}")


class UserConnections(APIView):
    @extend_schema(
        operation_id="close_connections",
        summary="Close a user's connections within a second; their credentials stay good",
        responses={204: None, **ERRORS},
    )
    def delete(self, request: Request, user: str) -> Response:
        return _kick(request, f"user:{require_id('user', user)}")


def _kick(request: Request, subject: str) -> Response:
    caller(request).require_scope("presence:write")
    with transaction.atomic():
        revocations.close(subject, Reason.KICKED)
        audit.record(caller(request), "connections.closed", subject)
    return Response(status=204)
