"""Leaderboards. The first argument is the board."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fanfare_client import calls
from fanfare_client.calls import Call, Page, Reply, given, path
from fanfare_client.conversation import refusal
from fanfare_client.outside_shapes import Board, BoardPage, Row, ScoreResult, Standing, Submitted, Window
from fanfare_client.shapes import Number


def submit(
    board: str,
    name: str,
    score: Number,
    *,
    subscore: Number | None = None,
    operator: str | None = None,
    metadata: Any = None,
    idempotency_key: str | None = None,
) -> Call[Submitted]:
    """Takes a score -> where the name stands then. It counts once, however often the connection fails meanwhile."""
    body = {"score": score, **given(subscore=subscore, operator=operator, metadata=metadata)}
    return calls.post_once(path("leaderboards", board, name), calls.one(Submitted), body, idempotency_key)


def submit_many(
    board: str, scores: Sequence[Mapping[str, Any]], *, idempotency_key: str | None = None
) -> Call[list[ScoreResult]]:
    """Up to 10,000 of `{"name", "score", …}` -> what became of each, in their order."""
    return calls.post_once(path("leaderboards", board), _results, {"scores": list(scores)}, idempotency_key)


def standing(board: str, name: str, *, window: str | None = None, ties: str | None = None) -> Call[Standing]:
    """Where somebody stands. 404 `not_ranked`: nowhere."""
    return calls.get(path("leaderboards", board, name), calls.one(Standing), window=window, ties=ties)


def page(
    board: str, start: int = 0, end: int | None = None, *, window: str | None = None, ties: str | None = None
) -> Call[BoardPage]:
    """From a rank, counted from 0, to before another; by default 20 entries, and 1000 at most."""
    return _page(board, startRank=start, endRank=end, window=window, ties=ties)


def around(
    board: str, name: str, size: int | None = None, *, window: str | None = None, ties: str | None = None
) -> Call[BoardPage]:
    """A page with a name in its middle; empty where the name is not ranked."""
    return _page(board, around=name, size=size, window=window, ties=ties)


def of(board: str, names: Sequence[str], *, window: str | None = None, ties: str | None = None) -> Call[BoardPage]:
    """These names, up to 1000; who is not ranked is left out."""
    return _page(board, names=names, window=window, ties=ties)


def between(
    board: str, lowest: Number, highest: Number, *, limit: int | None = None, window: str | None = None
) -> Call[BoardPage]:
    """Scores from one to another, both included, and how many there are."""
    return _page(board, minScore=lowest, maxScore=highest, limit=limit, window=window)


def rows(
    board: str, *, window: str | None = None, ties: str | None = None, page_size: int | None = 1000
) -> Call[Page[Row]]:
    """All entries, best first; `page_size`: how many are fetched at a time."""
    read = calls.page("leaderboard", Row)
    return calls.get(path("leaderboards", board), read, limit=page_size, window=window, ties=ties)


def put(board: str, /, **settings: Any) -> Call[Board]:
    """Makes a board, or changes what is given: `order`, `operator`, `schedule` and others of docs/leaderboards.md."""
    return calls.put(path("leaderboards", board), calls.one(Board), settings)


def drop(board: str) -> Call[None]:
    """Removes a board with all that is in it."""
    return calls.delete(path("leaderboards", board), calls.nothing)


def remove(board: str, name: str) -> Call[None]:
    """Takes a name out of all open windows."""
    return calls.delete(path("leaderboards", board, name), calls.nothing)


def hide(board: str, name: str) -> Call[None]:
    """Takes a name out of sight; its scores still count."""
    return calls.post(path("leaderboards", board, name, "hide"), calls.nothing, {})


def unhide(board: str, name: str) -> Call[None]:
    return calls.post(path("leaderboards", board, name, "unhide"), calls.nothing, {})


def windows(board: str, *, page_size: int | None = None) -> Call[Page[Window]]:
    """Newest first; `page_size`: how many are fetched at a time."""
    read = calls.page("windows", Window)
    return calls.get(path("leaderboards", board, "windows"), read, limit=page_size)


def reset(board: str, *, schedule: str | None = None) -> Call[None]:
    """Closes a window now, and opens the next."""
    return calls.post_unsafe(path("leaderboards", board, "windows"), calls.nothing, given(schedule=schedule))


def all_boards(*, page_size: int | None = None) -> Call[Page[Board]]:
    """Boards with their settings, by name; `page_size`: how many are fetched at a time."""
    return calls.get(path("leaderboards"), calls.page("boards", Board), limit=page_size)


def _page(board: str, **query: Any) -> Call[BoardPage]:
    return calls.get(path("leaderboards", board), calls.one(BoardPage), **query)


def _results(reply: Reply) -> list[ScoreResult]:
    fields = msgspec.json.decode(reply.body, type=dict[str, Any])
    return [_result(item) for item in msgspec.convert(fields.get("results"), list[dict[str, Any]])]


def _result(item: dict[str, Any]) -> ScoreResult:
    status = msgspec.convert(item.get("status"), int)
    if "error" in item:
        return ScoreResult(status=status, error=refusal(Reply(status, {}, msgspec.json.encode(item))))
    return ScoreResult(status=status, submitted=msgspec.convert(item, Submitted))
