"""The contract of rankings: what knows who is where in a window. Those of RANKINGS fulfil it, a board names its own.

The entries in the database are the record; a ranking may keep an index of them, which may be lost, late, or another
one's. Then it says so, and leaderboards.indexing makes it whole again: it never guesses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import msgspec

Ties = Literal["ordinal", "competition", "modified", "dense"]
"""How those with equal results are ranked: 0123 (first come, first), 0113, 0223 or 0112 for the scores 9, 7, 7, 5."""


@dataclass(frozen=True, slots=True)
class WindowKey:
    """A window, as far as rankings have to know it. `archived`: its entries have their final ranks."""

    id: int
    epoch: str
    descending: bool
    archived: bool = False

    def order(self, row: "Row") -> tuple[float, float, int]:
        """By which rows are sorted, best first."""
        sign = -1 if self.descending else 1
        return sign * row.score, sign * row.subscore, row.place


class Key(NamedTuple):
    """What an entry is ranked by: its score, then its subscore, better first, then who was there first."""

    score: float
    subscore: float
    place: int


class Change(NamedTuple):
    """One numbered change of a window's ranking. No key: the owner leaves it."""

    seq: int
    name: str
    key: Key | None


class Row(msgspec.Struct, frozen=True):
    """An entry and its rank, from 0. `place` is for cursors only."""

    name: str
    score: float
    subscore: float
    place: int
    rank: int

    @property
    def key(self) -> Key:
        return Key(self.score, self.subscore, self.place)


@dataclass(frozen=True, slots=True)
class Found:
    """Rows of one consistent read, best first, of so many in all. `version` is the `seq` that it is of."""

    rows: Sequence[Row]
    total: int
    version: int


class Unavailable(Exception):
    """The ranking does not answer now."""


class Missing(Exception):
    """The ranking has no whole index of this window, or that of another epoch: it is to be rebuilt."""


class Gap(Exception):
    """The index is at `head`, and the changes do not follow on it: those between are to be applied first."""

    def __init__(self, head: int) -> None:
        super().__init__(f"the index is at {head}")
        self.head = head


Told = Callable[[int], None]
"""Is told how far something is."""


def nobody(_number: int) -> None:
    """For what nobody wants to be told of."""


class Ranking(Protocol):
    """Every function raises Unavailable, those that read or apply also Missing. They are for threads.

    Ranks count from 0. What is asked for and not ranked is left out.
    """

    indexed: bool
    """Whether it keeps an index, which `apply` has to be told of changes."""

    def refuses(self, entry_limit: int | None) -> str:
        """Why a board with this limit of entries, or none, cannot have this ranking; nothing: it can."""

    def apply(self, window: WindowKey, changes: Sequence[Change]) -> tuple[list[int | None] | None, list[int | None]]:
        """Takes changes, whose numbers follow each other -> the ordinal ranks of their owners before, and after all.

        What it has already, it takes again as nothing: then there are no ranks before. Raises Gap.
        """

    def head(self, window: WindowKey) -> int:
        """The `seq` of the last change that it has."""

    def standings(self, window: WindowKey, names: Sequence[str], ties: Ties = "ordinal") -> Found:
        """These owners, best first."""

    def page(self, window: WindowKey, start: int, stop: int, ties: Ties = "ordinal") -> Found:
        """From an ordinal rank to before another."""

    def after(self, window: WindowKey, key: Key, name: str, limit: int, ties: Ties = "ordinal") -> Found:
        """Those who are behind this place, whether or not anybody is at it."""

    def around(self, window: WindowKey, name: str, size: int, ties: Ties = "ordinal") -> Found:
        """`size` rows with the named one in the middle, or as near as both ends allow; none if it is not ranked."""

    def between(
        self, window: WindowKey, low: float, high: float, start: int, limit: int, ties: Ties = "ordinal"
    ) -> tuple[Found, int]:
        """Those with a score from `low` to `high`, inclusive, from the `start`th on -> some, and how many in all."""

    def rebuild(self, window: WindowKey, told: Told = nobody) -> None:
        """Makes the index anew from the database, however many write meanwhile; tells how many entries it has so far.

        Raises Unavailable, also while another process is at it.
        """

    def drop(self, window: WindowKey) -> None:
        """Forgets the index of a window."""


def tied(ties: Ties, start: int, edge: int, steps: Sequence[bool]) -> list[int]:
    """The ranks of neighbours, the first of them at `start`, from the rank of the first or, if `modified`, of the last.

    `steps`: whether each of the others differs from the one before.
    """
    ranks = [edge]
    if ties == "modified":
        for at in range(len(steps) - 1, -1, -1):
            ranks.append(start + at if steps[at] else ranks[-1])
        return ranks[::-1]
    for at, step in enumerate(steps, start + 1):
        following = ranks[-1] + 1 if ties == "dense" else at
        ranks.append(following if step else ranks[-1])
    return ranks
