"""Rankings in Redis or Valkey: a sorted set for each window, from which every answer takes one step."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from leaderboards import ranking_scripts as scripts
from leaderboards import rebuilding
from leaderboards.bulk import chunks
from leaderboards.ranking import Change, Found, Key, Missing, Row, Ties, Told, WindowKey, nobody, tied
from leaderboards.redis_index import CHANGES_A_SCRIPT, NEW_CHANGES, Index, call, order, row, tag


class RedisRanking:
    """Ranks among a million entries in microseconds. Redis may lose them: then they are made anew.

    The ranks that `apply` gives for more than CHANGES_A_SCRIPT changes, and only these, are of several steps.
    """

    indexed = True

    def refuses(self, entry_limit: int | None) -> str:
        return ""

    def apply(self, window: WindowKey, changes: Sequence[Change]) -> tuple[list[int | None] | None, list[int | None]]:
        index = Index(window)
        try:
            return _apply(index, changes)
        except Missing:
            if changes[0].seq > NEW_CHANGES:
                raise
        index.open()  # The changes of a new window are all that there is to know of it.
        return _apply(index, changes)

    def head(self, window: WindowKey) -> int:
        return Index(window).head()

    def standings(self, window: WindowKey, names: Sequence[str], ties: Ties = "ordinal") -> Found:
        head, total, found = Index(window).ask(scripts.STANDINGS, ties, *dict.fromkeys(names))
        entries = sorted(zip(map(float, found[1::3]), found[::3], found[2::3], strict=True))
        return Found([row(window, *entry) for entry in entries], total, int(head))

    def page(self, window: WindowKey, start: int, stop: int, ties: Ties = "ordinal") -> Found:
        return _found(window, ties, Index(window).ask(scripts.PAGE, ties, start, stop))

    def after(self, window: WindowKey, key: Key, name: str, limit: int, ties: Ties = "ordinal") -> Found:
        bound = tag(window, key.subscore, key.place) + name.encode() + b"\0"  # No name has a zero byte.
        return _found(window, ties, Index(window).ask(scripts.AFTER, ties, order(window, key.score), bound, limit))

    def around(self, window: WindowKey, name: str, size: int, ties: Ties = "ordinal") -> Found:
        return _found(window, ties, Index(window).ask(scripts.AROUND, ties, name, size))

    def between(
        self, window: WindowKey, low: float, high: float, start: int, limit: int, ties: Ties = "ordinal"
    ) -> tuple[Found, int]:
        edges = (high, low) if window.descending else (low, high)
        best_to_worst = [order(window, edge) for edge in edges]
        size, rows = Index(window).ask(scripts.BETWEEN, ties, *best_to_worst, start, limit)
        return _found(window, ties, rows), size

    def rebuild(self, window: WindowKey, told: Told = nobody) -> None:
        rebuilding.rebuild(window, told)

    def drop(self, window: WindowKey) -> None:
        index = Index(window)
        call(scripts.FORGET, [*index.keys, index.lease])  # Without its lease, a new index does not come either.


def _apply(index: Index, changes: Sequence[Change]) -> tuple[list[int | None] | None, list[int | None]]:
    if not changes:
        return [], []
    names = [change.name for change in changes]
    if len(changes) <= CHANGES_A_SCRIPT:
        if moves := index.apply(changes, ranks=True):
            before, after = ([ranks[name] for name in names] for ranks in moves)
            return before, after
        return None, index.ranks(names)
    old = index.ranks(names)
    taken = [index.apply(some, ranks=False) for some in chunks(changes, CHANGES_A_SCRIPT)]
    return None if None in taken else old, index.ranks(names)


def _found(window: WindowKey, ties: Ties, answer: Sequence[Any]) -> Found:
    """Of what `rows` in the scripts gives."""
    head, total, start, edge, found = answer
    scores = list(map(float, found[1::2]))
    members = found[::2]
    ranks: Iterable[int] = range(start, start + len(members))
    if members and ties != "ordinal":
        results = [(score, member[:8]) for score, member in zip(scores, members, strict=True)]
        ranks = tied(ties, start, edge, [one != other for one, other in pairwise(results)])
    rows: list[Row] = [row(window, *entry) for entry in zip(scores, members, ranks, strict=True)]
    return Found(rows, total, int(head))
