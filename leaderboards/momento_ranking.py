"""Rankings in sorted sets at Momento, for boards of bounded size. Ranks are exact, or there are none."""

import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

from django.conf import settings

from leaderboards.bulk import chunks
from leaderboards.database_ranking import DatabaseRanking
from leaderboards.models import Window
from leaderboards.momento_index import BUILDING, ELEMENTS_A_CALL, WRITING_SECONDS, Element, Index, State
from leaderboards.ranking import Change, Found, Gap, Key, Missing, Row, Ties, Told, Unavailable, WindowKey, nobody, tied
from leaderboards.redis_index import TAG_BYTES, row, tag

ENTRIES_MAX = 20_000  # With the longest names, a sorted set of so many is an item of less than 5 MB.
RANKS_ASKED = 20  # For more of them, the whole set is read.
TRIES = 5  # To become the one who writes.
NEAR = 500  # So many are read at once where a place is looked for.
RESULT_BYTES = 8  # Of an element: what sorts its subscore.
AFTER_ALL = b"\xff" * 7  # The six bytes that follow are a place.

_score = Struct(">d")
_database = DatabaseRanking()


class MomentoRanking:
    """Order, ties and subscores are those of the record. Dense ranks, which it cannot count, are left to the database.

    A change takes a dozen calls, one after the other, and one writer at a time: a board with more than some tens of
    submissions a second answers without ranks now and then.
    """

    indexed = True

    def refuses(self, entry_limit: int | None) -> str:
        if not settings.MOMENTO_API_KEY:
            return "momento needs MOMENTO_API_KEY"
        if entry_limit is not None and entry_limit <= ENTRIES_MAX:
            return ""
        return f"momento needs an entry_limit of at most {ENTRIES_MAX}: a sorted set has 5 MB"

    def apply(self, window: WindowKey, changes: Sequence[Change]) -> tuple[list[int | None] | None, list[int | None]]:
        if not changes:
            return [], []
        index = Index(window)
        names = [change.name for change in changes]
        for _ in range(TRIES):
            state = index.whole()
            if changes[0].seq > state.head + 1:
                raise Gap(state.head)
            new = [change for change in changes if change.seq > state.head]
            if not new:
                return None, index.read(lambda state: _ranks_of(index, state, names))[1]
            if mine := index.take(state, state.head, state.data):
                break
        else:
            raise Unavailable("Others write to the index all the time.")
        try:
            before, after = _write(index, state, mine, new)
        except BaseException:
            index.give_up(mine)
            raise
        if len(new) < len(changes):
            return None, index.read(lambda state: _ranks_of(index, state, names))[1]
        return [before[name] for name in names], [after[name] for name in names]

    def head(self, window: WindowKey) -> int:
        state = Index(window).look()
        if state is None or state.epoch != window.epoch:
            raise Missing
        if state.head == BUILDING:
            raise Unavailable("The index is being made.")
        return state.head

    def standings(self, window: WindowKey, names: Sequence[str], ties: Ties = "ordinal") -> Found:
        index = Index(window)

        def question(state: State) -> list[Row]:
            elements = _elements_of(index, state, list(dict.fromkeys(names)))
            ranks = _ranks(index, state, list(elements.values()))
            rows = [(value, score, ranks[value]) for value, score in elements.values()]
            return [
                row(window, score, value, _rank(index, state, ties, (value, score), rank))
                for value, score, rank in sorted(rows, key=lambda one: one[2])
            ]

        return _found(index, ties, question)

    def page(self, window: WindowKey, start: int, stop: int, ties: Ties = "ordinal") -> Found:
        index = Index(window)
        return _found(index, ties, lambda state: _rows(index, state, ties, start, stop))

    def after(self, window: WindowKey, key: Key, name: str, limit: int, ties: Ties = "ordinal") -> Found:
        index, (value, score) = Index(window), _element(window, Change(0, name, key))

        def question(state: State) -> list[Row]:
            start = _place(index, state, score, value + b"\0")  # No name has a zero byte.
            return _rows(index, state, ties, start, start + limit)

        return _found(index, ties, question)

    def around(self, window: WindowKey, name: str, size: int, ties: Ties = "ordinal") -> Found:
        index = Index(window)

        def question(state: State) -> list[Row]:
            elements = _elements_of(index, state, [name])
            if not elements:
                return []
            start = max(min(index.rank(state, elements[name][0]) - size // 2, state.size - size), 0)
            return _rows(index, state, ties, start, start + size)

        return _found(index, ties, question)

    def between(
        self, window: WindowKey, low: float, high: float, start: int, limit: int, ties: Ties = "ordinal"
    ) -> tuple[Found, int]:
        index = Index(window)
        best, worst = (_order(window, edge) for edge in ((high, low) if window.descending else (low, high)))
        counted: list[int] = [0]

        def question(state: State) -> list[Row]:
            first = index.count(state, best, inclusive=False)
            end = max(index.count(state, worst, inclusive=True), first)
            counted[0] = end - first
            return _rows(index, state, ties, first + start, min(first + start + limit, end))

        return _found(index, ties, question), counted[0]

    def rebuild(self, window: WindowKey, told: Told = nobody) -> None:
        index = Index(window)
        state = index.look()
        if state and state.writer != "-":
            index.whole()  # Somebody else makes it; where they are done by now, it is as new.
            return
        mine = index.take(state, BUILDING, secrets.token_hex(6))
        if mine is None:
            raise Unavailable("The index is being made anew already.")
        try:
            _build(index, mine, told)
        except BaseException:
            index.give_up(mine)
            raise
        with suppress(Unavailable):  # What is left behind expires.
            index.drop(state)

    def drop(self, window: WindowKey) -> None:
        index = Index(window)
        index.drop(index.look())


class _Moves(NamedTuple):
    before: dict[str, int | None]
    after: dict[str, int | None]


def _write(index: Index, state: State, mine: State, changes: Sequence[Change]) -> _Moves:
    """Puts changes in, as the writer -> ranks of their owners."""
    last = {change.name: change for change in changes}
    try:
        old = _elements_of(index, mine, list(last))
        ranks = _ranks(index, mine, list(old.values()))
    except Unavailable:  # Nothing is changed yet, so the index is as good as before.
        index.swap(mine, state)
        raise
    before = {name: ranks[old[name][0]] if name in old else None for name in last}
    new = {name: _element(index.window, change) for name, change in last.items() if change.key}
    index.put(mine, list(new.values()), {name: _field(element) for name, element in new.items()})
    gone = {element[0] for element in old.values()} - {element[0] for element in new.values()}
    index.remove(mine, list(gone), [name for name in old if name not in new])
    grown = mine._replace(size=mine.size + len(new) - len(old))
    ranks = _ranks(index, grown, list(new.values()))
    index.finish(mine, changes[-1].seq, grown.size)
    return _Moves(before, {name: ranks[new[name][0]] if name in new else None for name in last})


def _build(index: Index, mine: State, told: Told) -> None:
    """From one consistent read of the record. What changes meanwhile, others find missing, and add."""
    window = index.window
    found = _database.page(window, 0, ENTRIES_MAX)
    epoch = Window.objects.filter(pk=window.id).values_list("epoch", flat=True).first()
    if epoch != window.epoch:
        raise Unavailable("The window's order is not what it was, or it is gone.")
    if found.total > ENTRIES_MAX:
        raise Unavailable(f"The window has more than {ENTRIES_MAX} entries.")
    elements = {one.name: _element(window, Change(0, one.name, one.key)) for one in found.rows}
    done = 0
    for names in chunks(list(elements), ELEMENTS_A_CALL):
        if not index.swap(mine, mine, WRITING_SECONDS):
            raise Unavailable("Another process has taken over.")
        some = {name: elements[name] for name in names}
        index.put(mine, list(some.values()), {name: _field(element) for name, element in some.items()})
        done += len(names)
        told(done)
    index.finish(mine, found.version, len(found.rows))


# --- Reading --------------------------------------------------------------------------------------


def _found(index: Index, ties: Ties, question: Callable[[State], list[Row]]) -> Found:
    if ties == "dense":
        raise Unavailable("Momento does not count dense ranks.")
    state, rows = index.read(question)
    return Found(rows, state.size, state.head)


def _rows(index: Index, state: State, ties: Ties, start: int, stop: int) -> list[Row]:
    elements = index.elements(state, start, stop)
    ranks: Sequence[int] = range(start, start + len(elements))
    if elements and ties != "ordinal":
        at = -1 if ties == "modified" else 0
        edge = _rank(index, state, ties, elements[at], ranks[at])
        results = [(score, value[:RESULT_BYTES]) for value, score in elements]
        ranks = tied(ties, start, edge, [one != other for one, other in pairwise(results)])
    return [row(index.window, score, value, rank) for (value, score), rank in zip(elements, ranks, strict=True)]


def _rank(index: Index, state: State, ties: Ties, element: Element, ordinal: int) -> int:
    value, score = element
    result = value[:RESULT_BYTES]
    if ties == "competition":
        return _place(index, state, score, result)
    if ties == "modified":
        return _place(index, state, score, result + AFTER_ALL) - 1
    return ordinal


def _place(index: Index, state: State, score: float, bound: bytes) -> int:
    """How many are before an element that is not there."""
    low = index.count(state, score, inclusive=False)
    high = index.count(state, score, inclusive=True)
    while high - low > NEAR:
        middle = (low + high) // 2
        [(value, _)] = index.elements(state, middle, middle + 1)
        low, high = (middle + 1, high) if value < bound else (low, middle)
    return low + sum(value < bound for value, _ in index.elements(state, low, high))


def _ranks_of(index: Index, state: State, names: Sequence[str]) -> list[int | None]:
    elements = _elements_of(index, state, list(dict.fromkeys(names)))
    ranks = _ranks(index, state, list(elements.values()))
    return [ranks[elements[name][0]] if name in elements else None for name in names]


def _ranks(index: Index, state: State, elements: Sequence[Element]) -> dict[bytes, int]:
    """Ordinal ones, of elements that are there."""
    if len(elements) <= RANKS_ASKED:
        return {value: index.rank(state, value) for value, _ in elements}
    found = {value: rank for rank, (value, _) in enumerate(index.elements(state, 0, state.size))}
    try:
        return {value: found[value] for value, _ in elements}
    except KeyError:
        raise Missing from None


# --- What it is made of ---------------------------------------------------------------------------


def _order(window: WindowKey, score: float) -> float:
    """Smaller where better."""
    return 0.0 - score if window.descending else score + 0.0


def _element(window: WindowKey, change: Change) -> Element:
    assert change.key
    value = tag(window, change.key.subscore, change.key.place) + change.name.encode()
    return value, _order(window, change.key.score)


def _field(element: Element) -> bytes:
    """What the dictionary has for a name: its score and tag."""
    value, score = element
    return _score.pack(score) + value[:TAG_BYTES]


def _elements_of(index: Index, state: State, names: Sequence[str]) -> dict[str, Element]:
    """Of those who are ranked."""
    return {
        name: (field[_score.size :] + name.encode(), _score.unpack_from(field)[0])
        for name, field in index.fields(state, names).items()
    }
