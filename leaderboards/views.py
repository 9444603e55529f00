"""The API of scores and standings. A view says who may; the services say what."""

from collections.abc import Sequence
from typing import Any

import msgspec
from drf_spectacular.utils import extend_schema
from msgspec import UNSET
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import IDEMPOTENCY_KEY, caller, claimed, replied, require_id, shaped, wrong
from accounts.shapes import ERRORS
from accounts.throttles import throttle_address
from leaderboards import boards, curating, rights, shapes, standings, windows
from leaderboards.listing import METADATA, PARAMETERS, TIES, WINDOW, listing, metadata_of, ties_of, window_of
from leaderboards.models import Board
from leaderboards.submitting import Refusal, Score, Standing, Submitted, submit


class BoardView(APIView):
    """Reading is for those whom the board lets, also without a credential; all else asks for a caller first."""

    def get_permissions(self) -> Sequence[Any]:
        if self.request.method in ("GET", "HEAD"):
            return [AllowAny()]
        return super().get_permissions()


class OneName(BoardView):
    @extend_schema(
        operation_id="submit_score",
        summary="Submit a score",
        parameters=[IDEMPOTENCY_KEY],
        request=shapes.NewScore,
        responses={202: shapes.AcceptedScore, **ERRORS},
    )
    def post(self, request: Request, board: str, name: str) -> Response:
        target = submitted_to(request, board)
        score = _score(caller(request), require_id("name", name), shaped(request.data, shapes.NewScore))
        done = submit(target, [score], str(caller(request)), claimed(request, "score", board, name))
        (result,) = done.results
        if isinstance(result, Refusal):
            raise result.error()
        return replied(shapes.accepted(result), done.replayed)

    @extend_schema(
        operation_id="standing",
        summary="Where a name stands",
        parameters=[TIES, WINDOW, METADATA],
        responses={200: shapes.OwnStanding, **ERRORS},
    )
    def get(self, request: Request, board: str, name: str) -> Response:
        target = read_by(request, board)
        ties, with_metadata = ties_of(request), metadata_of(request)
        require_id("name", name)
        if target is None:
            raise not_ranked()
        window = window_of(request, target)
        found = standings.of(window, [name], ties)
        if not found.rows:
            raise not_ranked()
        told = standings.metadata(window, [name]).get(name, "") if with_metadata else UNSET
        return Response(shapes.own_standing(window, found, told, dense=ties == "dense"))

    @extend_schema(
        operation_id="remove_name",
        summary="Remove a name from the open windows",
        responses={204: None, **ERRORS},
    )
    def delete(self, request: Request, board: str, name: str) -> Response:
        curating.remove(managed_by(request, board), require_id("name", name), str(caller(request)))
        return Response(status=204)


class Leaderboard(BoardView):
    max_body_setting = "BATCH_MAX_BYTES"

    @extend_schema(
        operation_id="submit_scores",
        summary="Submit up to 10,000 scores",
        parameters=[IDEMPOTENCY_KEY],
        request=shapes.ScoresBody,
        responses={202: shapes.ScoreResults, **ERRORS},
    )
    def post(self, request: Request, board: str) -> Response:
        target, principal = submitted_to(request, board), caller(request)
        items = shaped(request.data, shapes.Scores).scores
        given = [_try_score(principal, item, index) for index, item in enumerate(items)]
        scores, claim = [one for one in given if isinstance(one, Score)], claimed(request, "scores", board)
        done = submit(target, scores, str(principal), claim) if scores else Submitted([])
        results = iter(done.results)
        told = [_refused(one) if isinstance(one, ApiError) else _result(next(results)) for one in given]
        return replied({"results": told}, done.replayed)

    @extend_schema(
        operation_id="leaderboard",
        summary="Entries, best first: by rank, around a name, by names, by scores",
        parameters=PARAMETERS,
        responses={200: shapes.Leaderboard, **ERRORS},
    )
    def get(self, request: Request, board: str) -> Response:
        return Response(listing(request, read_by(request, board)))

    @extend_schema(
        operation_id="put_board",
        summary="Make or change a board",
        request=shapes.BoardChange,
        responses={200: shapes.Board, 201: shapes.Board, **ERRORS},
    )
    def put(self, request: Request, board: str) -> Response:
        caller(request).require_scope(rights.WRITE)
        changes = shapes.changes_of(shaped(request.data, shapes.BoardChange))
        row, created = boards.put(require_board(board), changes, caller(request))
        return Response(shapes.board(row), status=201 if created else 200)

    @extend_schema(
        operation_id="delete_board",
        summary="Delete a board with all of its windows",
        responses={204: None, **ERRORS},
    )
    def delete(self, request: Request, board: str) -> Response:
        caller(request).require_scope(rights.WRITE)
        boards.delete(require_board(board), caller(request))
        return Response(status=204)


# --- Who, and which board -------------------------------------------------------------------------


def read_by(request: Request, name: str) -> Board | None:
    """The board, if there is one, for who may read it. Raises ApiError 400, 401, 403, and 429 for strangers."""
    principal = request.user if isinstance(request.user, Principal) else None
    if principal is None:
        throttle_address(request.META.get("REMOTE_ADDR"))
    board = boards.find(require_board(name))
    rights.require_read(principal, name, board)
    return board


def submitted_to(request: Request, name: str) -> Board:
    """The board, for who may submit to it; a service's first score may make it. Raises ApiError 400, 403 and 404."""
    principal = caller(request)
    rights.require_submit(principal, boards.find(require_board(name)))
    return boards.for_submission(name, principal.is_backend, principal)


def managed_by(request: Request, name: str) -> Board:
    """The board, for who may manage boards. Raises ApiError 400, 403 and 404."""
    caller(request).require_scope(rights.WRITE)
    board = boards.find(require_board(name))
    if board is None:
        raise windows.unknown_board(name)
    return board


def require_board(name: str) -> str:
    """Raises ApiError 400 for what cannot be a board's name."""
    if "/" in name:
        raise wrong("board", "a name without /")
    return require_id("board", name)


def not_ranked() -> ApiError:
    return ApiError(404, "not_ranked", "Nobody of this name is ranked here.")


# --- Scores ---------------------------------------------------------------------------------------


def _score(principal: Principal, name: str, given: shapes.NewScore) -> Score:
    """Raises ApiError 403, 413 and 422."""
    if not rights.is_own(principal, name):
        raise ApiError(403, "denied", "A user submits scores of their own only.")
    if given.operator is not UNSET and not principal.is_backend:
        raise ApiError(403, "denied", "operator: for services only.")
    return shapes.score_of(name, given)


def _try_score(principal: Principal, item: Any, index: int) -> Score | ApiError:
    try:
        given = shaped(item, shapes.NamedScore, at=f"scores[{index}]")
        return _score(principal, require_id(f"scores[{index}].name", given.name), given)
    except ApiError as error:
        return error


def _result(result: Standing | Refusal) -> dict[str, Any]:
    if isinstance(result, Refusal):
        return _refused(result.error())
    return {"status": 202, **msgspec.structs.asdict(shapes.accepted(result))}


def _refused(error: ApiError) -> dict[str, Any]:
    return {"status": error.status, "error": error.as_dict()}
