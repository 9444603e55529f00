"""Reading a board: which window, then rows of its ranking.

Each answer is of one consistent read; but for scores from a cursor on, and on boards that are over their `entry_limit`
until the surplus is evicted: these ask twice.
"""

from collections.abc import Iterable, Sequence

from leaderboards import indexing
from leaderboards.indexing import Question
from leaderboards.models import Entry, Window
from leaderboards.ranking import Found, Key, Ranking, Ties, WindowKey


def page(window: Window, start: int, stop: int, ties: Ties) -> Found:
    """From an ordinal rank to before another."""
    return _ask(window, lambda ranking, key: ranking.page(key, start, stop, ties))


def after(window: Window, place: Key, name: str, limit: int, ties: Ties) -> Found:
    """Those behind a place, wherever its owner is by now."""
    return _ask(window, lambda ranking, key: ranking.after(key, place, name, limit, ties))


def around(window: Window, name: str, size: int, ties: Ties) -> Found:
    """`size` rows with the named one in the middle, or as near as both ends allow; none if it is not ranked."""
    return _ask(window, lambda ranking, key: ranking.around(key, name, size, ties))


def of(window: Window, names: Sequence[str], ties: Ties) -> Found:
    """These owners, best first."""
    return _ask(window, lambda ranking, key: ranking.standings(key, names, ties))


def between(
    window: Window, low: float, high: float, place: tuple[Key, str] | None, limit: int, ties: Ties
) -> tuple[Found, int]:
    """Those with a score from `low` to `high`, both included, behind a place -> some, and how many in all."""
    count = 0

    def question(ranking: Ranking, key: WindowKey) -> Found:
        nonlocal count
        found, count = ranking.between(key, low, high, 0, limit, ties)
        most = window.board.entry_limit
        if most is not None and found.total > most:
            best = ranking.between(key, low, high, 0, 1)[0].rows
            count = max(0, min(count, most - best[0].rank)) if best else 0
        if place is None:
            return found
        found = ranking.after(key, *place, limit, ties)
        return Found([row for row in found.rows if low <= row.score <= high], found.total, found.version)

    return _ask(window, question), count


def metadata(window: Window, names: Iterable[str]) -> dict[str, str]:
    """What came with the scores of these owners, as JSON, where anything did."""
    found = Entry.objects.filter(window=window, owner__name__in=list(names)).exclude(metadata="")
    return dict(found.values_list("owner__name", "metadata"))


def _ask(window: Window, question: Question) -> Found:
    """Without those behind the board's `entry_limit`, who are there until they are evicted."""
    limit = window.board.entry_limit

    def limited(ranking: Ranking, key: WindowKey) -> Found:
        found = question(ranking, key)
        if limit is None or found.total <= limit:
            return found
        last = ranking.page(key, limit - 1, limit).rows
        rows = [row for row in found.rows if not last or key.order(row) <= key.order(last[0])]
        return Found(rows, limit, found.version)

    return indexing.ask(window, limited)
