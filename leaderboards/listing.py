"""What `GET /api/leaderboards/{board}` asks for, and the answer: by rank, around a name, by names, by scores."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, NamedTuple, cast, get_args

from msgspec import UNSET, Meta
from rest_framework.request import Request

from accounts.errors import ApiError
from accounts.principals import ID_WANTED, valid_id
from accounts.requests import cursor, integer, require_id, seal_cursor, wrong
from accounts.shapes import query
from leaderboards import shapes, standings, windows
from leaderboards.models import Board, Window
from leaderboards.ranking import Found, Key, Ties

PAGE_DEFAULT, PAGE_MAX = 20, 1000
NAMES_MAX = 1000
PLACE_MAX = 2**48 - 1  # What rankings keep of it.

TIES = query("ties", "How equal results are ranked: ordinal, competition, modified or dense.")
WINDOW = query("window", "current, previous, a schedule as weekly or weekly.previous, or a label.")
METADATA = query("metadata", "1: also what the scores came with.", int)
PARAMETERS = [
    query("startRank", "The first rank, from 0.", int),
    query("endRank", "The rank to end before; by default 20 after the first, 1000 at most.", int),
    query("around", "The page with this name in its middle."),
    query("size", "With around: how many; 20 by default, 1000 at most.", int),
    query("names", "These only, separated by commas, 1000 at most."),
    query("minScore", "Only those with this score or a higher one.", float),
    query("maxScore", "Only those with this score or a lower one.", float),
    query("cursor", "The `next` of the page before: what follows it, in the same window."),
    query("limit", "Instead of ranks: how many; 20 by default, 1000 at most.", int),
    TIES,
    WINDOW,
    METADATA,
]
WAYS = (("startRank", "endRank"), ("around", "size"), ("names",), ("minScore", "maxScore", "cursor", "limit"))


class Place(NamedTuple):
    """Where a page ends, as a cursor: whoever is behind it follows, however much has moved."""

    window: str
    name: str
    score: float
    subscore: float
    place: Annotated[int, Meta(ge=0, le=PLACE_MAX)]

    @property
    def key(self) -> Key:
        return Key(self.score, self.subscore, self.place)


@dataclass(frozen=True, slots=True)
class Listed:
    """`more`: others follow. `count`: so many have such a score."""

    found: Found
    more: bool = False
    count: int | None = None


def listing(request: Request, board: Board | None) -> shapes.Leaderboard:
    """Raises ApiError 400, and 404 for a window that is not there."""
    place = cursor(request, Place)
    if place and not valid_id(place.name):
        raise wrong("cursor", "the `next` of an earlier page")
    ask = _question(request, place)
    with_metadata = metadata_of(request)
    if board is None:
        return shapes.Leaderboard(leaderboard=[], total=0, version=0, window=None, next=None)
    window = window_of(request, board, place.window if place else None)
    listed = ask(window)
    rows = listed.found.rows
    told = standings.metadata(window, [row.name for row in rows]) if with_metadata else None
    last = rows[-1] if rows and listed.more else None
    return shapes.Leaderboard(
        leaderboard=[shapes.ranked(row, UNSET if told is None else told.get(row.name, "")) for row in rows],
        total=listed.found.total,
        version=listed.found.version,
        window=window.label,
        count=UNSET if listed.count is None else listed.count,
        next=seal_cursor(*Place(window.label, last.name, *last.key)) if last else None,
    )


def ties_of(request: Request) -> Ties:
    text = request.query_params.get("ties", "ordinal")
    if text not in get_args(Ties):
        raise wrong("ties", f"one of {', '.join(get_args(Ties))}")
    return cast(Ties, text)


def metadata_of(request: Request) -> bool:
    return integer(request, "metadata", 0, least=0) > 0


def window_of(request: Request, board: Board, label: str | None = None) -> Window:
    """The window that is asked for. Raises ApiError 404 where there is none."""
    text = label or request.query_params.get("window", "current")
    window = windows.find(board, text) if text.isprintable() else None
    if window is None:
        raise ApiError(404, "unknown_window", "The board has no such window, or not any more.")
    return window


def _question(request: Request, place: Place | None) -> Callable[[Window], Listed]:
    """What is asked of a window. Raises ApiError 400."""
    params, ties = request.query_params, ties_of(request)
    used = [given for way in WAYS if (given := [name for name in way if name in params])]
    if len(used) > 1:
        raise wrong(used[1][0], f"not together with {used[0][0]}: one way at a time")
    if "size" in params and "around" not in params:
        raise wrong("size", "only with around")
    if "around" in params:
        name, size = (
            require_id("around", params["around"]),
            integer(request, "size", PAGE_DEFAULT, least=1, most=PAGE_MAX),
        )
        return lambda window: Listed(standings.around(window, name, size, ties))
    if "names" in params:
        names = _names(params["names"])
        return lambda window: Listed(standings.of(window, names, ties))
    limit = integer(request, "limit", PAGE_DEFAULT, least=1, most=PAGE_MAX)
    if "minScore" in params or "maxScore" in params:
        low, high = _score(request, "minScore", -math.inf), _score(request, "maxScore", math.inf)
        if low > high:
            raise wrong("maxScore", "not below minScore")
        return lambda window: _cut(limit, *standings.between(window, low, high, _known(place), limit + 1, ties))
    if place:
        return lambda window: _cut(limit, standings.after(window, place.key, place.name, limit + 1, ties))
    start, stop = (0, limit) if "limit" in params else _ranks(request)
    return lambda window: _by_rank(window, start, stop, ties)


def _by_rank(window: Window, start: int, stop: int, ties: Ties) -> Listed:
    found = standings.page(window, start, stop, ties)
    return Listed(found, more=stop < found.total)


def _known(place: Place | None) -> tuple[Key, str] | None:
    return (place.key, place.name) if place else None


def _cut(limit: int, found: Found, count: int | None = None) -> Listed:
    """One more was asked for than is shown."""
    shown = Found(found.rows[:limit], found.total, found.version)
    return Listed(shown, more=len(found.rows) > limit, count=count)


def _ranks(request: Request) -> tuple[int, int]:
    start = integer(request, "startRank", 0, least=0)
    stop = integer(request, "endRank", start + PAGE_DEFAULT, least=0)
    if stop < start:
        raise wrong("endRank", "not below startRank")
    return start, min(stop, start + PAGE_MAX)


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if len(names) > NAMES_MAX:
        raise wrong("names", f"at most {NAMES_MAX}")
    if not all(map(valid_id, names)):
        raise wrong("names", f"{ID_WANTED}, each")
    return names


def _score(request: Request, name: str, default: float) -> float:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[+-]?[0-9]{1,20}(\.[0-9]{0,20})?([eE][+-]?[0-9]{1,2})?", text):
        raise wrong(name, "a number")
    return float(text)
