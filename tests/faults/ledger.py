"""What happened: as producers saw it, as clients saw it, and as the database has it in the end."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg

from tests.servers import Stack

# --- What producers saw: a line before, a line after ----------------------------------------------


class Send(msgspec.Struct, tag=True, frozen=True):
    """A request is about to be made. Repetitions have the same key."""

    key: str
    topic: str
    at: float
    expires: bool = False
    scheduled: bool = False


class Reply(msgspec.Struct, tag=True, frozen=True):
    """What came of it: `ok`, `fail` (it has no effect, for sure) or `info` (nobody knows). Status 0: no answer."""

    key: str
    asked_at: float
    at: float
    outcome: str
    status: int = 202
    retry_after: bool = False
    id: str = ""
    epoch: str | None = None
    offset: int | None = None


class Recall(msgspec.Struct, tag=True, frozen=True):
    """A message is about to be taken back."""

    id: str
    at: float


# --- What clients saw -----------------------------------------------------------------------------


class Opened(msgspec.Struct, tag=True, frozen=True):
    client: str
    connection: int
    at: float


class Closed(msgspec.Struct, tag=True, frozen=True):
    """`code` of the close frame; 1006 when there was none; an HTTP status when the connection was refused."""

    client: str
    connection: int
    at: float
    code: int
    meant: bool = False  # The client wanted it.


class At(msgspec.Struct, tag=True, frozen=True):
    """The server said where the client stands. `why`: start, on (it goes on from there), lost (it has to reload)."""

    client: str
    topic: str
    epoch: str | None
    offset: int
    why: str
    at: float


class Got(msgspec.Struct, tag=True, frozen=True):
    """A message arrived; on connection 0 if the client read it from the log after a `lost`.

    `epoch` is None while the client has not been told.
    """

    client: str
    connection: int
    topic: str
    epoch: str | None
    offset: int
    id: str
    key: str
    at: float


class Sample(msgspec.Struct, tag=True, frozen=True):
    """What a web process (its id) used at one moment."""

    process: int
    rss: int
    files: int
    at: float


Line = Send | Reply | Recall | Opened | Closed | At | Got | Sample


@dataclass(slots=True)
class Client:
    """Who a client is, and what it may hear."""

    user: str
    topics: frozenset[str]


@dataclass(slots=True)
class Ledger:
    """All lines in the order in which they happened."""

    lines: list[Line] = field(default_factory=list)
    clients: dict[str, Client] = field(default_factory=dict)

    def add(self, line: Line) -> None:
        self.lines.append(line)

    def of(self, *kinds: type) -> Iterator[Any]:
        return (line for line in self.lines if isinstance(line, kinds))

    def save(self, path: Path) -> None:
        """As JSON lines, to look into after a failure."""
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in self.lines))


# --- What the database has ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """A message as it is stored. Times are epoch seconds."""

    id: str
    topic: str
    offset: int | None
    key: str
    created_at: float
    expires: bool = False
    recalled: bool = False
    excluded: frozenset[str] = frozenset()


@dataclass(slots=True)
class History:
    """`heads`: topic -> (epoch, head)."""

    heads: dict[str, tuple[str, int]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)


_EPOCH_SECONDS = {
    "sqlite": "(julianday({0}) - 2440587.5) * 86400.0",
    "postgres": "extract(epoch FROM {0})::float8",
}


def dump(stack: Stack) -> History:
    """The whole log, by SQL, as it is at one moment: requests that were given up may still be at work."""
    address = stack.environment.get("DATABASE_URL")
    connection: Any = psycopg.connect(address) if address else sqlite3.connect(stack.home / "fanfare.sqlite3")
    created = _EPOCH_SECONDS["postgres" if address else "sqlite"].format("m.created_at")
    try:
        cursor = connection.cursor()
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ" if address else "BEGIN")
        history = History()
        for name, epoch, head in cursor.execute("SELECT name, epoch, head FROM notifications_topic"):
            history.heads[name] = (epoch, head)
        excluded: dict[str, set[str]] = {}
        for message, user in cursor.execute('SELECT message_id, "user" FROM notifications_receipt WHERE excluded'):
            excluded.setdefault(_id(message), set()).add(user)
        rows = cursor.execute(
            f'SELECT m.id, t.name, m."offset", m.data, {created}, m.expires_at IS NOT NULL, m.recalled_at IS NOT NULL '
            "FROM notifications_message m JOIN notifications_topic t ON t.id = m.topic_id "
            'ORDER BY t.name, m."offset"'
        )
        for id, topic, offset, data, created_at, expires, recalled in rows:
            found = _id(id)
            key = msgspec.json.decode(data).get("key", "")
            history.rows.append(
                Row(
                    found,
                    topic,
                    offset,
                    key,
                    created_at,
                    bool(expires),
                    bool(recalled),
                    frozenset(excluded.get(found, ())),
                )
            )
        return history
    finally:
        connection.close()


def _id(value: Any) -> str:
    return str(UUID(str(value)))
