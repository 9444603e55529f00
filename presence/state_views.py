"""The API of users' presence: one, many, those of an account; what was, and what users say of themselves."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import PAGES, caller, cursor, on_behalf, page_limit, require_id, seal_cursor, shaped
from accounts.shapes import ERRORS, query
from presence import availability, rights, shapes, states

NAMED = 10  # Of the users who may not be seen.


class AccountPresence(APIView):
    @extend_schema(
        operation_id="account_presence",
        summary="How the users of an account are, by their ids",
        parameters=[query("account", "Which; a user's own by default."), *PAGES],
        responses={200: shapes.PresencePage, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        account = _account(caller(request), request.query_params.get("account"))
        place, limit = cursor(request, tuple[str]), page_limit(request)
        users = states.of_account(account, place[0] if place else "", limit + 1)
        following = seal_cursor(users[limit - 1]) if len(users) > limit else None
        return Response(shapes.PresencePage(_look(caller(request), users[:limit]), following))

    @extend_schema(
        operation_id="set_own_presence",
        summary="Say how you are: `PUT /api/presence/{user}` for whoever asks",
        request=shapes.StatusChange,
        responses={200: shapes.Presence, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        return _change(caller(request).require_user(), request)


class PresenceQuery(APIView):
    @extend_schema(
        operation_id="query_presence",
        summary="How up to 1,000 users are, in the order asked",
        description="An unknown user is OFFLINE with seq 0. Who may not see one of them gets none: a 403 names them.",
        request=shapes.PresenceQuery,
        responses={200: shapes.Presences, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        users = shaped(request.data, shapes.PresenceQuery).users
        for place, user in enumerate(users):
            require_id(f"users[{place}]", user)
        _require(caller(request), users)
        return Response(shapes.Presences(_look(caller(request), users)))


class OnePresence(APIView):
    @extend_schema(operation_id="presence", summary="How a user is", responses={200: shapes.Presence, **ERRORS})
    def get(self, request: Request, user: str) -> Response:
        _require(caller(request), [require_id("user", user)])
        return Response(_look(caller(request), [user])[0])

    @extend_schema(
        operation_id="set_presence",
        summary="Say how a user is: availability, and a line of text",
        description="It holds on all devices of the user, until it is changed. What is so already tells nobody.",
        request=shapes.StatusChange,
        responses={200: shapes.Presence, **ERRORS},
    )
    def put(self, request: Request, user: str) -> Response:
        return _change(on_behalf(caller(request), require_id("user", user), rights.WRITE), request)


class PresenceHistory(APIView):
    @extend_schema(
        operation_id="presence_history",
        summary="The last 100 changes of a user's status, newest first",
        responses={200: shapes.History, **ERRORS},
    )
    def get(self, request: Request, user: str) -> Response:
        on_behalf(caller(request), require_id("user", user), rights.READ)
        return Response(shapes.History(states.history(user)))


def _change(user: str, request: Request) -> Response:
    availability.change(user, shaped(request.data, shapes.StatusChange))
    return Response(states.look([user], knowing=None)[0])


def _account(principal: Principal, named: str | None) -> str:
    """The account that is asked about. Raises ApiError 400 and 403."""
    if principal.is_backend:
        principal.require_scope(rights.READ)
        return require_id("account", named or "")
    principal.require_user()
    if principal.account is None or named not in (None, principal.account):
        raise ApiError(403, "denied", "A user sees their own account only.")
    return principal.account


def _require(principal: Principal, users: list[str]) -> None:
    """Raises ApiError 403 for who may not see all of the users."""
    if principal.is_backend:
        principal.require_scope(rights.READ)
    allowed = rights.visible(principal, users)
    if refused := [user for user in users if user not in allowed]:
        fields = {"users": ", ".join(refused[:NAMED])}
        raise ApiError(403, "denied", "This credential may not see all of these users.", fields=fields)


def _look(principal: Principal, users: list[str]) -> list[shapes.Presence]:
    """Backends and users themselves see the truth, others what an invisible user lets them see."""
    knowing = None if principal.is_backend else [principal.acts] if principal.acts is not None else []
    return states.look(users, knowing)
