"""Who is in a room, over HTTP."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.requests import PAGES, caller, cursor, page_limit, seal_cursor
from accounts.shapes import ERRORS
from presence import room_shapes, rooms
from realtime.authorizers import require_now
from realtime.redis_scripts import RedisDown


class RoomMembers(APIView):
    @extend_schema(
        operation_id="room",
        summary="Who is in a room",
        description="For those who may listen to `presence.<room>`: a service with `presence:read`, or a capability.",
        parameters=PAGES,
        responses={200: room_shapes.Room, **ERRORS},
    )
    def get(self, request: Request, room: str) -> Response:
        require_now(caller(request), "subscribe", rooms.topic_of(room))
        place, limit = cursor(request, tuple[str]), page_limit(request)
        try:
            count, members = rooms.page(room, place[0] if place else None, limit + 1)
        except RedisDown as error:
            raise ApiError(503, "unavailable", "Redis does not answer: try again.", retry_after=2) from error
        following = seal_cursor(members[limit - 1].user) if len(members) > limit else None
        return Response({"count": count, "members": members[:limit], "next": following})
