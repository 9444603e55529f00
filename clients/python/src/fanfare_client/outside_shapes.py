"""What the server answers about leaderboards, and about what goes outside."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fanfare_client.errors import FanfareError
from fanfare_client.shapes import Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One entry of a board; `rank` counts from 0."""

    name: str
    score: Number
    subscore: Number = 0
    rank: int
    metadata: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """`rank` counts from 0, `position` from 1; `percentile`: how many in a hundred are behind."""

    board: str
    window: str
    name: str
    score: Number
    subscore: Number = 0
    rank: int
    position: int
    total: int
    percentile: int | None = None
    version: int
    metadata: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """The standing after a score was taken. `held`: it waits for a review. `stale`: the ranks are not known now."""

    board: str
    name: str
    score: Number | None = None
    subscore: Number | None = None
    rank: int | None = None
    position: int | None = None
    previous_rank: int | None = None
    changed: bool
    held: bool = False
    stale: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreResult:
    """What became of one of many scores: where it stands, or why it was not taken."""

    status: int
    submitted: Submitted | None = None
    error: FanfareError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BoardPage:
    """Entries, best first, of `total`. `count`: how many have a score in the range that was asked for."""

    leaderboard: tuple[Row, ...]
    total: int
    version: int
    window: str | None = None
    count: int | None = None
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    name: str
    order: str
    operator: str
    schedule: str | tuple[str, ...]
    timezone: str
    retention: int
    entry_limit: int | None = None
    min_score: Number | None = None
    max_score: Number | None = None
    max_step: Number | None = None
    rate: str = ""
    submit: str = "service"
    read: str = "user"
    ranking: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    label: str
    schedule: str
    starts_at: datetime
    ends_at: datetime | None = None
    closed_at: datetime | None = None
    archived_at: datetime | None = None
    entries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """`counts`: how many deliveries came to each end. `secret` is shown when it is made, and never again."""

    id: str
    name: str
    kind: str
    address: str
    options: Mapping[str, Any]
    events: tuple[str, ...]
    topics: tuple[str, ...]
    types: tuple[str, ...]
    enabled: bool
    disabled_reason: str = ""
    failures: int = 0
    failing_since: datetime | None = None
    paused_until: datetime | None = None
    last_error: str = ""
    created_at: datetime
    counts: Mapping[str, int] = field(default_factory=dict)
    secret: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """`state`: pending, delivered, dead or expired. `event_id` is what the receiver sees as its id."""

    id: int
    destination: str
    event_id: str
    event: str
    key: str
    state: str
    attempts: int
    due_at: datetime | None = None
    expires_at: datetime | None = None
    error: str = ""
    response: str = ""
    created_at: datetime
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientMessage:
    """A message that is lent, for the `received`-th time; `body` has `type`, `timestamp` and `data`."""

    message_id: str
    receipt: str
    received: int = 1
    body: Any
