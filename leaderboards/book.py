"""A window's book: the entries of some owners as they are, what is to become of them, and one bulk write of it all."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import F

from leaderboards.bulk import insert
from leaderboards.models import Entry, Submission, Window
from leaderboards.ranking import Change, Key
from leaderboards.scoring import Result

_ENTRY = ("score", "subscore", "place", "hidden", "metadata")
_RECORD = (
    "window_id", "seq", "owner_id", "operator", "given", "given_sub", "score", "subscore", "place", "state",
    "reason", "metadata", "actor", "at",
)  # fmt: skip
_TAKE_NEW = "ON CONFLICT (window_id, owner_id) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in _ENTRY
)


class Line(NamedTuple):
    """An entry, without whose and where it is."""

    score: float
    subscore: float
    place: int
    hidden: bool = False
    metadata: str = ""

    @property
    def pair(self) -> Result:
        return self.score, self.subscore

    @property
    def key(self) -> Key | None:
        """Its place in the ranking, if it has one."""
        return None if self.hidden else Key(self.score, self.subscore, self.place)


@dataclass(slots=True)
class Book:
    """For the transaction that has locked the window. `changes` are for its ranking, after the commit."""

    window: Window
    lines: dict[str, Line] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    _touched: dict[str, None] = field(default_factory=dict)
    _records: list[tuple[str, *tuple[Any, ...]]] = field(default_factory=list)
    _ranked: int = 0  # How many more there are in the ranking.

    def read(self, numbers: Mapping[str, int]) -> None:
        """Looks up the owners; their numbers are by name."""
        names = {number: name for name, number in numbers.items()}
        found = Entry.objects.filter(window=self.window, owner_id__among=sorted(names))
        self.lines |= {names[number]: Line(*values) for number, *values in found.values_list("owner_id", *_ENTRY)}

    def next_place(self) -> int:
        """The place of who arrives now."""
        return self.window.seq + 1

    def put(self, name: str, line: Line | None) -> int:
        """What the owner has from now on; None: nothing -> the number of the change."""
        before = self.lines.get(name)
        self.window.seq += 1
        key = line.key if line else None
        self._ranked += (key is not None) - (before is not None and not before.hidden)
        if line:
            self.lines[name] = line
        else:
            self.lines.pop(name, None)
        self._touched[name] = None
        self.changes.append(Change(self.window.seq, name, key))
        return self.window.seq

    def record(
        self,
        name: str,
        operator: str,
        given: Result | tuple[None, None],
        seq: int | None,
        state: str = Submission.State.ACCEPTED,
        reason: str = "",
        metadata: str = "",
    ) -> None:
        """Writes down what somebody did, and what the entry is since."""
        line = self.lines.get(name)
        now = (*line.pair, None if line.hidden else line.place) if line else (None, None, None)
        self._records.append((name, seq, operator, *given, *now, state, reason, metadata))

    def write(self, numbers: Mapping[str, int], actor: str, now: datetime) -> None:
        """Stores everything, in a few statements."""
        at = connection.ops.adapt_datetimefield_value(now)
        lines = {name: self.lines.get(name) for name in self._touched}
        insert(
            Entry,
            ("window_id", "owner_id", *_ENTRY),
            [
                (self.window.pk, numbers[name], line.score, line.subscore, line.place, line.hidden, line.metadata)
                for name, line in lines.items()
                if line
            ],
            _TAKE_NEW,
        )
        self._delete(numbers[name] for name, line in lines.items() if line is None)
        insert(
            Submission,
            _RECORD,
            [(self.window.pk, seq, numbers[name], *rest, actor, at) for name, seq, *rest in self._records],
        )
        if self.changes:
            Window.objects.filter(pk=self.window.pk).update(seq=self.window.seq, entries=F("entries") + self._ranked)

    def _delete(self, gone: Iterable[int]) -> None:
        if numbers := list(gone):
            Entry.objects.filter(window=self.window, owner_id__among=numbers).delete()
