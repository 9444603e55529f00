"""`/api/sessions`: a view says who may; the services say what. Receiving is in receive_endpoint.py."""

from drf_spectacular.utils import extend_schema
from msgspec import UNSET
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import PAGES, caller, cursor, on_behalf, page_limit, require_id, seal_cursor, shaped, wrong
from accounts.shapes import ERRORS, query
from realtime.topics import HASHED
from sessions_app import access, receiving, sessions, shapes
from sessions_app.models import BrowserSession
from sessions_app.topics import unknown

AGENT_MAX = 200


class Sessions(APIView):
    @extend_schema(
        operation_id="create_session",
        summary="Make a session, or go on with one of the same user's",
        request=shapes.SessionRequest,
        responses={200: shapes.OneSession, 201: shapes.OneSession, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        wanted = shaped(request.data, shapes.SessionRequest)
        session, new = sessions.open_session(
            None if wanted.session is UNSET else _checked(wanted.session),
            *_whose(caller(request), wanted),
            wanted.transport,
            wanted.retention,
            request.META.get("REMOTE_ADDR") or "",
            request.headers.get("User-Agent", "")[:AGENT_MAX],
        )
        return Response(shapes.OneSession(access.shown(session, access.give(session))), status=201 if new else 200)

    @extend_schema(
        operation_id="sessions",
        summary="Sessions of a user, of an account, or all",
        parameters=[query("account", "Of this account."), query("user", "Of this user."), *PAGES],
        responses={200: shapes.Sessions, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        found = sessions.live()
        principal, given = caller(request), request.query_params
        if principal.is_backend and "user" not in given:
            principal.require_scope("sessions:read")
        else:
            found = found.filter(user=on_behalf(principal, given.get("user"), "sessions:read"))
        if "account" in given:
            found = found.filter(account=require_id("account", given["account"]))
        if place := cursor(request, tuple[str]):
            found = found.filter(pk__gt=place[0])
        limit = page_limit(request)
        rows = list(found.order_by("pk")[: limit + 1])
        further = seal_cursor(rows[limit - 1].pk) if len(rows) > limit else None
        return Response(shapes.Sessions([access.shown(row) for row in rows[:limit]], further))


class OneSession(APIView):
    @extend_schema(operation_id="session", summary="A session", responses={200: shapes.OneSession, **ERRORS})
    def get(self, request: Request, session: str) -> Response:
        return Response(shapes.OneSession(access.shown(allowed(caller(request), session, "sessions:read"))))

    @extend_schema(operation_id="destroy_session", summary="End a session", responses={204: None, **ERRORS})
    def delete(self, request: Request, session: str) -> Response:
        found = allowed(caller(request), session, "sessions:write")
        sessions.end(BrowserSession.objects.filter(pk=found.pk))
        return Response(status=204)


class Renewal(APIView):
    @extend_schema(
        operation_id="renew_session",
        summary="Let a session live on; what gives access to its queue is fresh",
        request=None,
        responses={200: shapes.OneSession, **ERRORS},
    )
    def post(self, request: Request, session: str) -> Response:
        found = allowed(caller(request), session, "sessions:write")
        sessions.renew(found)
        return Response(shapes.OneSession(access.shown(found, access.give(found))))


class Acknowledgement(APIView):
    @extend_schema(
        operation_id="acknowledge_session",
        summary="Say that messages are done with, so that they do not come again",
        request=shapes.Acknowledgement,
        responses={200: shapes.SettledReceipts, **ERRORS},
    )
    def post(self, request: Request, session: str) -> Response:
        found = allowed(caller(request), session, "sessions:write")
        receipts = shaped(request.data, shapes.Acknowledgement).receipts
        return Response(shapes.SettledReceipts(receiving.acknowledge(found, receipts)))


def allowed(principal: Principal, id: str, scope: str) -> BrowserSession:
    """The session, for its user or a backend. Raises ApiError 403 and 404; another user's is not there."""
    if principal.is_backend:
        principal.require_scope(scope)
        return sessions.get(id)
    user, session = principal.require_user(), sessions.get(id)
    if session.user != user:
        raise unknown()
    return session


def _whose(principal: Principal, wanted: shapes.SessionRequest) -> tuple[str, str]:
    """User and account."""
    user = on_behalf(principal, None if wanted.user is UNSET else wanted.user, "sessions:write")
    if principal.is_backend:
        return user, "" if wanted.account is UNSET else require_id("account", wanted.account)
    if wanted.account not in (UNSET, principal.account):
        raise ApiError(403, "denied", "A user's session is of their own account.")
    return user, principal.account or ""


def _checked(id: str) -> str:
    if not id.isprintable() or {",", "/"} & set(id) or id.startswith(HASHED):
        raise wrong("session", f"printable text without comma and slash, which does not begin with {HASHED}")
    return id
