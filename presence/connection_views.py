"""The API's list of live connections. Closing them is the business of realtime, whose processes have them."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import PAGES, caller, cursor, on_behalf, page_limit, require_id, seal_cursor, wrong
from accounts.shapes import ERRORS, query
from presence import connections
from presence.connections import Wanted
from realtime.redis_scripts import RedisDown

TRANSPORTS = ("websocket", "stream", "poll")


class Connections(APIView):
    @extend_schema(
        operation_id="connections",
        summary="Live connections on all processes, in the order of their ids; a user sees their own",
        parameters=[
            query("user", "Only this user's."),
            query("account", "Only those of users in this account."),
            query("transport", "Only these: websocket, stream or poll."),
            *PAGES,
        ],
        responses={200: connections.Connections, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        wanted, place = _wanted(request, caller(request)), cursor(request, tuple[str])
        try:
            found, after = connections.page(wanted, place[0] if place else "", page_limit(request))
        except RedisDown as error:
            text = "Who is connected cannot be known now: try again."
            raise ApiError(503, "registry_unavailable", text, retry_after=2) from error
        return Response(connections.Connections(found, seal_cursor(after) if after else None))


def _wanted(request: Request, principal: Principal) -> Wanted:
    """Raises ApiError 400, and 403 for a backend without the scope and a user who asks for others."""
    user, account, transport = (request.query_params.get(name) for name in ("user", "account", "transport"))
    if transport not in (None, *TRANSPORTS):
        raise wrong("transport", f"one of {', '.join(TRANSPORTS)}")
    if account is not None:
        require_id("account", account)
    if principal.is_backend and user is None:
        principal.require_scope("presence:read")
    else:
        user = on_behalf(principal, user, "presence:read")
    return Wanted(user, account, transport)
