"""A window in the database, and beside it the sorted list that its ranking has to be."""

from collections.abc import Iterable, Sequence

from django.db import transaction
from django.utils import timezone

from leaderboards import owners
from leaderboards.book import Book, Line
from leaderboards.models import Board, Window, new_epoch
from leaderboards.ranking import Change, Found, Row, Ties, WindowKey
from leaderboards.rankings import key_of
from leaderboards.scoring import Result

Wish = tuple[str, Result | None]
"""What an owner is to have; None: nothing."""


class Oracle:
    """Its window is written by the same book as everywhere, its list is plain Python."""

    def __init__(self, order: str = "desc") -> None:
        board = Board.objects.create(name=f"board {new_epoch()}", order=order, schedules=["none"])
        self.window = Window.objects.create(board=board, schedule="none", label="1", starts_at=timezone.now())
        self.results: dict[str, tuple[float, float, int]] = {}

    @property
    def key(self) -> WindowKey:
        return key_of(self.window)

    def write(self, wishes: Sequence[Wish]) -> list[Change]:
        """Stores what is wished for -> the changes, of which no ranking has heard yet."""
        with transaction.atomic():
            numbers = owners.ensure(name for name, _ in wishes)
            book = Book(Window.objects.select_for_update().select_related("board").get(pk=self.window.pk))
            book.read(numbers)
            for name, result in wishes:
                line = None if result is None else Line(*result, book.next_place())
                seq = book.put(name, line)
                book.record(name, "set", result or (None, None), seq)
            book.write(numbers, "key:test", timezone.now())
        self.window = book.window
        for change in book.changes:
            if change.key is None:
                self.results.pop(change.name, None)
            else:
                self.results[change.name] = change.key
        return book.changes

    def rows(self, ties: Ties = "ordinal") -> list[Row]:
        """All, best first."""
        sign = -1 if self.window.board.order == "desc" else 1
        ordered = sorted(self.results.items(), key=lambda item: (sign * item[1][0], sign * item[1][1], item[1][2]))
        results = [key[:2] for _, key in ordered]
        distinct = list(dict.fromkeys(results))
        ranks = {
            "ordinal": range(len(results)),
            "competition": [results.index(result) for result in results],
            "modified": [len(results) - 1 - results[::-1].index(result) for result in results],
            "dense": [distinct.index(result) for result in results],
        }[ties]
        return [Row(name, *key, rank) for (name, key), rank in zip(ordered, ranks, strict=True)]

    def ranks(self, names: Iterable[str]) -> list[int | None]:
        found = {row.name: row.rank for row in self.rows()}
        return [found.get(name) for name in names]

    def expect(self, found: Found, rows: Sequence[Row]) -> None:
        """That an answer is of now, and has these rows."""
        assert list(found.rows) == list(rows)
        assert (found.total, found.version) == (len(self.results), self.window.seq)
