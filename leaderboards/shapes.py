"""The bodies of the leaderboard API."""

import math
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from accounts.errors import ApiError
from accounts.shapes import Id, Problem
from leaderboards.models import Board as BoardRow
from leaderboards.models import Window as WindowRow
from leaderboards.ranking import Found, Row
from leaderboards.scoring import SCORE_MAX, plain
from leaderboards.submitting import Score, Standing

SCORES_MAX = 10_000
SCHEDULES_MAX = 4
METADATA_MAX_BYTES = 4 * 1024

Number = int | float
"""A score: what has no fraction is written without one, for clients whose integers are no floats."""

Operator = Literal["best", "set", "incr", "decr"]
Schedule = Annotated[
    str, Meta(min_length=1, max_length=100, description="none, hourly, daily, weekly, monthly, or five fields of cron.")
]
Schedules = Annotated[
    Schedule | Annotated[list[Schedule], Meta(min_length=1, max_length=SCHEDULES_MAX)],
    Meta(description="When windows end. Of several, side by side, the first is the main one."),
]
Order = Annotated[Literal["desc", "asc"], Meta(description="`desc`: more is better.")]
TimeZone = Annotated[str, Meta(min_length=1, max_length=64, description="As Europe/Berlin.")]
Days = Annotated[int, Meta(ge=0, le=36_500, description="Days for which closed windows are kept.")]
Limit = Annotated[int, Meta(ge=1, le=2_000_000_000, description="The best so many are kept.")]
Rate = Annotated[str, Meta(max_length=20, description="As 10/m: what an owner submits faster waits for a review.")]
Submit = Annotated[Literal["service", "self"], Meta(description="`self`: also users, for themselves.")]
Read = Literal["public", "user", "service"]
Ranking = Annotated[str, Meta(min_length=1, max_length=50, description="One that the server has.")]


class NewScore(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    score: Annotated[Number, Meta(description="Finite, and from -2^53 to 2^53.")]
    subscore: Annotated[Number, Meta(description="Decides between equal scores.")] = 0
    operator: Annotated[Operator | UnsetType, Meta(description="Instead of the board's; from backends only.")] = UNSET
    metadata: Annotated[Any, Meta(description="Any JSON, up to 4 KiB: what the score comes with.")] = None


class NamedScore(NewScore, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    name: Annotated[Id, Meta(description="Whose score it is; a user's id, where it is a user.")]


class Scores(Struct, forbid_unknown_fields=True):
    # The items are shaped one by one, so that a bad one does not fail its neighbours.
    scores: Annotated[list[Any], Meta(min_length=1, max_length=SCORES_MAX)]


class ScoresBody(Struct):
    """Up to 10,000 scores, taken in their order."""

    scores: Annotated[list[NamedScore], Meta(min_length=1, max_length=SCORES_MAX)]


class AcceptedScore(Struct, kw_only=True):
    """The owner's standing in the board's main window after a score was taken; of many, after all of them.

    `held`: it waits for a review, and the standing is as it was. `stale`: the ranks are not known now.
    """

    board: str
    name: str
    score: Number | None
    subscore: Number | None
    rank: Annotated[int | None, Meta(description="From 0.")]
    position: Annotated[int | None, Meta(description="From 1.")]
    previous_rank: Annotated[int | None, Meta(description="Null where there was none, or it is not known.")]
    changed: bool
    held: bool
    stale: bool


class ScoreResult(Struct, omit_defaults=True, kw_only=True):
    """What became of one of many scores: status 202 with its standing, or an error."""

    status: int
    board: str | UnsetType = UNSET
    name: str | UnsetType = UNSET
    score: Number | UnsetType | None = UNSET
    subscore: Number | UnsetType | None = UNSET
    rank: int | UnsetType | None = UNSET
    position: int | UnsetType | None = UNSET
    previous_rank: int | UnsetType | None = UNSET
    changed: bool | UnsetType = UNSET
    held: bool | UnsetType = UNSET
    stale: bool | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class ScoreResults(Struct):
    results: list[ScoreResult]


class OwnStanding(Struct, omit_defaults=True, kw_only=True):
    """`percentile`: how many in a hundred are behind; null where ranks are dense, for they do not tell."""

    board: str
    window: str
    name: str
    score: Number
    subscore: Number
    rank: int
    position: int
    total: int
    percentile: int | None
    version: int
    metadata: Any | UnsetType = UNSET


class Ranked(Struct, omit_defaults=True):
    name: str
    score: Number
    subscore: Number
    rank: int
    metadata: Any | UnsetType = UNSET


class Leaderboard(Struct, omit_defaults=True, kw_only=True):
    """Entries, best first, of `total`. `version` numbers the changes of the window."""

    leaderboard: list[Ranked]
    total: int
    version: int
    window: str | None
    count: Annotated[int | UnsetType, Meta(description="How many have a score from minScore to maxScore.")] = UNSET
    next: str | None


class BoardChange(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be changed of a board; what is not given stays, or is the default of a new one."""

    order: Order | UnsetType = UNSET
    operator: Operator | UnsetType = UNSET
    schedule: Schedules | UnsetType = UNSET
    timezone: TimeZone | UnsetType = UNSET
    retention: Days | UnsetType = UNSET
    entry_limit: Limit | UnsetType | None = UNSET
    min_score: Number | UnsetType | None = UNSET
    max_score: Number | UnsetType | None = UNSET
    max_step: Annotated[
        Number | UnsetType | None, Meta(description="What changes a score by more waits for a review.")
    ] = UNSET
    rate: Rate | UnsetType = UNSET
    submit: Submit | UnsetType = UNSET
    read: Read | UnsetType = UNSET
    ranking: Ranking | UnsetType = UNSET
    metadata: Annotated[dict[str, Any], Meta(description="Up to 4 KiB of JSON.")] | UnsetType = UNSET


class Board(Struct, kw_only=True):
    name: str
    order: str
    operator: str
    schedule: Annotated[str | list[str], Meta(description="A list where there are several.")]
    timezone: str
    retention: int
    entry_limit: int | None
    min_score: Number | None
    max_score: Number | None
    max_step: Number | None
    rate: str
    submit: str
    read: str
    ranking: str
    metadata: dict[str, Any]
    created_at: datetime


class Boards(Struct):
    boards: list[Board]
    next: str | None


class Window(Struct):
    """One period of a board. Once it is archived, its ranks are final."""

    label: str
    schedule: str
    starts_at: datetime
    ends_at: datetime | None
    closed_at: datetime | None
    archived_at: datetime | None
    entries: int


class Windows(Struct):
    windows: list[Window]
    next: str | None


class Reset(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Which window is to be closed now, by its schedule; the main one by default."""

    schedule: Schedule | UnsetType = UNSET


# --- To and from them -----------------------------------------------------------------------------


def percentile(rank: int, total: int) -> int:
    """How many in a hundred are behind this rank, rounded up."""
    return math.ceil((total - rank - 1) * 100 / total)


def score_of(name: str, given: NewScore) -> Score:
    """What is submitted. Raises ApiError 413 and 422."""
    for value in (given.score, given.subscore):
        if abs(value) > SCORE_MAX:  # As it was written: a float may have been rounded into the bounds.
            raise ApiError(422, "score_out_of_bounds", "score, subscore: from -2^53 to 2^53, where integers are exact.")
    metadata = "" if given.metadata is None else msgspec.json.encode(given.metadata).decode()
    if len(metadata.encode()) > METADATA_MAX_BYTES:
        raise ApiError(413, "too_large", f"metadata: {METADATA_MAX_BYTES} bytes of JSON at most.")
    operator = "" if given.operator is UNSET else given.operator
    return Score(name, float(given.score) + 0.0, float(given.subscore) + 0.0, operator, metadata)


def changes_of(given: BoardChange) -> dict[str, Any]:
    """What is given, as boards.put takes it."""
    changes = {name: value for name, value in msgspec.structs.asdict(given).items() if value is not UNSET}
    for name in ("min_score", "max_score", "max_step"):
        if isinstance(changes.get(name), int):
            changes[name] = float(changes[name])
    if "schedule" in changes:
        schedule = changes.pop("schedule")
        changes["schedules"] = [schedule] if isinstance(schedule, str) else schedule
    return changes


def accepted(standing: Standing) -> AcceptedScore:
    told = msgspec.structs.asdict(standing)
    for name in ("score", "subscore"):
        if told[name] is not None:
            told[name] = plain(told[name])
    return AcceptedScore(**told)


def ranked(row: Row, metadata: str | UnsetType) -> Ranked:
    shown = metadata if metadata is UNSET else Raw((metadata or "null").encode())
    return Ranked(row.name, plain(row.score), plain(row.subscore), row.rank, shown)


def own_standing(window: WindowRow, found: Found, metadata: str | UnsetType, *, dense: bool) -> OwnStanding:
    """Of a window with its board, and one row."""
    row = ranked(found.rows[0], metadata)
    return OwnStanding(
        board=window.board.name,
        window=window.label,
        name=row.name,
        score=row.score,
        subscore=row.subscore,
        rank=row.rank,
        position=row.rank + 1,
        total=found.total,
        percentile=None if dense else percentile(row.rank, found.total),
        version=found.version,
        metadata=row.metadata,
    )


def board(row: BoardRow) -> Board:
    return Board(
        name=row.name,
        order=row.order,
        operator=row.operator,
        schedule=row.schedules[0] if len(row.schedules) == 1 else row.schedules,
        timezone=row.timezone,
        retention=row.retention,
        entry_limit=row.entry_limit,
        min_score=None if row.min_score is None else plain(row.min_score),
        max_score=None if row.max_score is None else plain(row.max_score),
        max_step=None if row.max_step is None else plain(row.max_step),
        rate=row.rate,
        submit=row.submit,
        read=row.read,
        ranking=row.ranking,
        metadata=row.metadata,
        created_at=row.created_at,
    )


def window(row: WindowRow) -> Window:
    return Window(row.label, row.schedule, row.starts_at, row.ends_at, row.closed_at, row.archived_at, row.entries)
