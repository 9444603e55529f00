"""Keeping rankings true to the record, and asking them: what is late is caught up with, what is down is passed by.

A ranking takes changes in the order of their numbers. Whoever finds that some are missing, for a process was slower, or
died between its commit and the ranking, applies them from the record.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from django.conf import settings

from accounts.errors import ApiError
from leaderboards import rebuilding
from leaderboards.database_ranking import DatabaseRanking
from leaderboards.models import Window
from leaderboards.ranking import Change, Found, Gap, Missing, Ranking, Unavailable, WindowKey
from leaderboards.rankings import key_of, ranking_of

logger = logging.getLogger(__name__)

CHECK_SECONDS = 1.0  # So long a process trusts that an index is not ahead of the record.
OVERTAKEN_SECONDS = 0.002  # For another process to apply what it has just committed,
OVERTAKEN_LOOKS = 5  # so many times.
REPLAYED_MAX = 10_000  # Beyond, making the index anew is quicker.
AT_ONCE_ENTRIES = 2000  # An index of so many is made anew by who misses it.
CONFIRMED_MAX = 100
WINDOWS_REMEMBERED = 10_000

T = TypeVar("T")
Question = Callable[[Ranking, WindowKey], Found]

_database = DatabaseRanking()
_checked: dict[int, float] = {}  # Until when an index is trusted so, by window.


@dataclass(frozen=True, slots=True)
class Moves:
    """The ordinal ranks of owners before and after some changes; `known`: the ranking answered."""

    before: dict[str, int | None] = field(default_factory=dict)
    after: dict[str, int | None] = field(default_factory=dict)
    known: bool = False


def apply(window: Window, changes: Sequence[Change], asking: Sequence[str] = ()) -> Moves:
    """Tells the window's ranking of committed changes -> the ranks of those who changed or are asked for.

    It never fails: what the ranking does not take now, it takes later on.
    """
    ranking, key = ranking_of(window.board), key_of(window)
    names = [change.name for change in changes]
    before: dict[str, int | None] = {}
    after: dict[str, int | None] = {}
    try:
        if changes:
            old, new = _mending(ranking, window, lambda: _apply(ranking, key, changes))
            before = dict(zip(names, old, strict=True)) if old else {}
            after = dict(zip(names, new, strict=True))
        if unknown := [name for name in dict.fromkeys(asking) if name not in after]:
            found = _mending(ranking, window, lambda: _standings(ranking, key, window.seq, unknown))
            after |= {row.name: row.rank for row in found.rows}
    except (Unavailable, Missing):
        return Moves()
    return Moves(before, after, known=True)


def ask(window: Window, question: Question) -> Found:
    """Puts a question to the window's ranking or, while that has no answer, to the database: exact in either case.

    The answer is of `window.seq` or later. Raises ApiError 503 where the database would take too long
    (LEADERBOARD_DATABASE_ENTRIES).
    """
    ranking, key = ranking_of(window.board), key_of(window)
    if not ranking.indexed or key.archived:
        return question(_database, key)

    def answer() -> Found:
        _check(ranking, window, key)
        return _answer(ranking, key, window.seq, question)

    try:
        return _mending(ranking, window, answer)
    except (Missing, Unavailable):
        if window.entries > settings.LEADERBOARD_DATABASE_ENTRIES:
            text = "The ranking is being made anew: try again."
            raise ApiError(503, "ranking_unavailable", text, retry_after=2) from None
        return question(_database, key)


def _standings(ranking: Ranking, key: WindowKey, seq: int, names: Sequence[str]) -> Found:
    return _answer(ranking, key, seq, lambda ranking, key: ranking.standings(key, names))


def _answer(ranking: Ranking, key: WindowKey, seq: int, question: Question) -> Found:
    """What the ranking says, at this change or later."""
    found = question(ranking, key)
    for _ in range(OVERTAKEN_LOOKS):
        if found.version >= seq:
            return found
        time.sleep(OVERTAKEN_SECONDS)
        found = question(ranking, key)
    catch_up(ranking, key, found.version, seq + 1)
    found = question(ranking, key)
    if found.version < seq:  # It went back: somebody else has the same keys.
        raise Missing
    return found


def _apply(
    ranking: Ranking, key: WindowKey, changes: Sequence[Change]
) -> tuple[Sequence[int | None] | None, Sequence[int | None]]:
    for _ in range(OVERTAKEN_LOOKS):
        try:
            ranks = ranking.apply(key, changes)
            break
        except Gap as gap:
            head = gap.head
            time.sleep(OVERTAKEN_SECONDS)
    else:
        catch_up(ranking, key, head, changes[0].seq)
        try:
            ranks = ranking.apply(key, changes)
        except Gap as gap:  # It went back: somebody else has the same keys.
            raise Missing from gap
    if ranking.indexed and ranks[0] is None:
        _confirm(ranking, key, changes)
    return ranks


def _confirm(ranking: Ranking, key: WindowKey, changes: Sequence[Change]) -> None:
    """That the index, which had some of these numbers already, had them for these changes.

    Otherwise it is of a past that the database has lost, as when a copy of it took over, and is dropped: Missing.
    """
    last = {change.name: change for change in changes}
    names = list(last)[:CONFIRMED_MAX]
    index = {row.name: row.key for row in ranking.standings(key, names).rows}
    doubtful = []
    for name in names:
        there = index.get(name)
        if there != last[name].key and (there is None or there.place <= last[name].seq):
            doubtful.append(name)
    record = {row.name: row.key for row in _database.standings(key, doubtful).rows} if doubtful else {}
    if any(record.get(name) != index.get(name) for name in doubtful):
        ranking.drop(key)
        raise Missing


def catch_up(ranking: Ranking, key: WindowKey, head: int, before: int) -> None:
    """Applies what the record has after `head` and before another number. Raises Missing if it has not all of it."""
    missing = before - head - 1
    if missing > REPLAYED_MAX:
        raise Missing
    changes = rebuilding.recorded(key.id, head, missing) if missing > 0 else []
    if len(changes) < missing or (changes and changes[-1].seq >= before):  # Of a user who was erased, nothing is left.
        raise Missing
    if changes:
        try:
            ranking.apply(key, changes)
        except Gap as gap:
            raise Missing from gap


def _check(ranking: Ranking, window: Window, key: WindowKey) -> None:
    """Looks, now and then, whether the index is ahead of the record: then it is of no use. Raises Missing."""
    now = time.monotonic()
    if now < _checked.get(key.id, 0.0):
        return
    head = ranking.head(key)  # First: a change that comes meanwhile makes the record newer, not the index.
    if head > _seq(window):
        ranking.drop(key)
        raise Missing
    if len(_checked) > WINDOWS_REMEMBERED:
        _checked.clear()
    _checked[key.id] = now + CHECK_SECONDS


def _seq(window: Window) -> int:
    return Window.objects.filter(pk=window.pk).values_list("seq", flat=True).first() or 0


def _mending(ranking: Ranking, window: Window, work: Callable[[], T]) -> T:
    """What some work gives, if need be when the index has been made anew. Raises Missing if it is to come yet."""
    try:
        return work()
    except Missing:
        _mend(ranking, window)
        return work()


def _mend(ranking: Ranking, window: Window) -> None:
    """Makes a small index anew at once, and has a larger one made: it is Missing until then."""
    if window.entries <= AT_ONCE_ENTRIES:
        logger.info("The index of %s is made anew.", window)
        ranking.rebuild(key_of(window))
    else:
        rebuilding.want(window.pk)
