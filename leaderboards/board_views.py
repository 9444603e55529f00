"""The API of boards and their windows, and of hiding names."""

from drf_spectacular.utils import extend_schema
from msgspec import UNSET
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.requests import PAGES, caller, cursor, newest_first, page_limit, require_id, seal_cursor, shaped, wrong
from accounts.shapes import ERRORS
from leaderboards import closing, curating, rights, shapes
from leaderboards.models import Board, Window
from leaderboards.views import BoardView, managed_by, read_by


class Boards(APIView):
    @extend_schema(
        operation_id="boards",
        summary="Boards with their settings, by name",
        parameters=PAGES,
        responses={200: shapes.Boards, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        caller(request).require_scope(rights.READ)
        place, limit = cursor(request, tuple[str]), page_limit(request)
        found = Board.objects.filter(deleted_at=None, name__gt=place[0].replace("\0", "") if place else "")
        rows = list(found.order_by("name")[: limit + 1])
        following = seal_cursor(rows[limit - 1].name) if len(rows) > limit else None
        return Response(shapes.Boards([shapes.board(row) for row in rows[:limit]], following))


class Windows(BoardView):
    @extend_schema(
        operation_id="windows",
        summary="A board's windows, newest first",
        parameters=PAGES,
        responses={200: shapes.Windows, **ERRORS},
    )
    def get(self, request: Request, board: str) -> Response:
        target = read_by(request, board)
        found = Window.objects.filter(board=target) if target else Window.objects.none()
        rows, following = newest_first(request, found, int)
        return Response(shapes.Windows([shapes.window(row) for row in rows], following))

    @extend_schema(
        operation_id="reset_board",
        summary="Close a window now, and open the next",
        request=shapes.Reset,
        responses={201: shapes.Window, **ERRORS},
    )
    def post(self, request: Request, board: str) -> Response:
        target = managed_by(request, board)
        wanted = shaped(request.data, shapes.Reset)
        schedule = target.schedules[0] if wanted.schedule is UNSET else wanted.schedule
        if schedule not in target.schedules:
            text = f"one of this board's: {', '.join(target.schedules)}"
            raise ApiError(422, "refused", f"schedule: {text}.", fields={"schedule": text})
        return Response(shapes.window(closing.reset(target, caller(request), schedule)), status=201)


class Hide(APIView):
    @extend_schema(
        operation_id="hide_name",
        summary="Keep a name out of the ranking",
        request=None,
        responses={204: None, **ERRORS},
    )
    def post(self, request: Request, board: str, name: str) -> Response:
        curating.hide(managed_by(request, board), _named(request, name), str(caller(request)))
        return Response(status=204)


class Unhide(APIView):
    @extend_schema(
        operation_id="unhide_name",
        summary="Rank a hidden name again, where it was",
        request=None,
        responses={204: None, **ERRORS},
    )
    def post(self, request: Request, board: str, name: str) -> Response:
        curating.unhide(managed_by(request, board), _named(request, name), str(caller(request)))
        return Response(status=204)


def _named(request: Request, name: str) -> str:
    """Whom it is about. Raises ApiError 400, also for a score: its owner has a name that ends like our path."""
    if request.data:
        raise wrong("name", "one that ends in /hide or /unhide gets its scores with many at once")
    return require_id("name", name)
