"""Boards against a sorted list: whatever is submitted, removed, hidden, reset, lost, late: ranks are the list's."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import pytest
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from leaderboards import boards, closing, curating, indexing, standings, submitting, windows
from leaderboards.models import Board, Entry, Submission, Window
from leaderboards.ranking import Change, Row, Ties
from leaderboards.submitting import Refusal, Score, Standing, submit
from tests.presence.redis import TestRedis

pytestmark = pytest.mark.django_db(transaction=True)

NAMES = ["ada", "bob", "eve, the third", "żółw/🐢", "x" * 200]
NUMBERS = st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.0, 0.5, -0.25, 1e-9, 2.0**53 - 1])
OPERATORS = ["", "best", "set", "incr", "decr"]
LIMIT = 2.0**53

scores = st.builds(
    Score,
    name=st.sampled_from(NAMES),
    score=NUMBERS,
    subscore=st.sampled_from([0.0, 0.0, 1.0, -1.0]),
    operator=st.sampled_from(OPERATORS),
)


@dataclass(frozen=True, slots=True)
class Known:
    """What the model knows of an owner; `arrived` counts the changes of the window."""

    score: float
    subscore: float
    arrived: int
    hidden: bool = False


class Model:
    """One window: a dict and `sorted`."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.known: dict[str, Known] = {}
        self.clock = itertools.count()

    def submit(self, score: Score) -> bool | None:
        """Whether something changed; None: refused."""
        before = self.known.get(score.name)
        operator = score.operator or self.board.operator
        exact = [Fraction(score.score), Fraction(score.subscore)]
        if operator in ("incr", "decr"):
            sign = 1 if operator == "incr" else -1
            had = (before.score, before.subscore) if before else (0.0, 0.0)
            exact = [Fraction(one) + sign * given for one, given in zip(had, exact, strict=True)]
        if max(map(abs, exact)) > LIMIT:
            return None
        pair = (float(exact[0]), float(exact[1]))
        if before:
            had = (before.score, before.subscore)
            better = pair > had if self.board.order == "desc" else pair < had
            if pair == had or (operator == "best" and not better):
                return False
        self.known[score.name] = Known(*pair, next(self.clock), before.hidden if before else False)
        return True

    def ranked(self) -> list[tuple[str, Known]]:
        sign = -1 if self.board.order == "desc" else 1
        shown = [(name, one) for name, one in self.known.items() if not one.hidden]
        return sorted(shown, key=lambda pair: (sign * pair[1].score, sign * pair[1].subscore, pair[1].arrived))

    def rows(self, ties: Ties) -> list[tuple[str, float, float, int]]:
        ranked = self.ranked()
        pairs = [(one.score, one.subscore) for _, one in ranked]
        distinct = list(dict.fromkeys(pairs))
        rank: Callable[[int, tuple[float, float]], int] = {
            "ordinal": lambda at, pair: at,
            "competition": lambda at, pair: pairs.index(pair),
            "modified": lambda at, pair: len(pairs) - 1 - pairs[::-1].index(pair),
            "dense": lambda at, pair: distinct.index(pair),
        }[ties]
        return [(name, *pair, rank(at, pair)) for at, ((name, _), pair) in enumerate(zip(ranked, pairs, strict=True))]


class World(RuleBasedStateMachine):
    redis: ClassVar[TestRedis]
    ranking: ClassVar[str] = "redis"
    numbers = itertools.count()

    @initialize(order=st.sampled_from(["desc", "asc"]), operator=st.sampled_from(["best", "set", "incr", "decr"]))
    def begin(self, order: str, operator: str) -> None:
        self.redis.empty()
        indexing._checked.clear()
        self.board = Board.objects.create(
            name=f"b{next(self.numbers)}", order=order, operator=operator, schedules=["none"], ranking=self.ranking
        )
        self.model = Model(self.board)
        self.late: list[tuple[Window, Sequence[Change]]] = []

    def window(self) -> Window:
        with transaction.atomic():
            return windows.lock_open(self.board)[0]

    @rule(some=st.lists(scores, min_size=1, max_size=6))
    def submits(self, some: list[Score]) -> None:
        before = {name: at for at, (name, _) in enumerate(self.model.ranked())}
        changed = [self.model.submit(score) for score in some]
        after = {name: at for at, (name, _) in enumerate(self.model.ranked())}
        results = submit(self.board, some, "service:test").results
        for score, change, result in zip(some, changed, results, strict=True):
            if change is None:
                assert isinstance(result, Refusal)
                continue
            assert isinstance(result, Standing)
            assert (result.name, result.changed, result.stale) == (score.name, change, False)
            assert result.rank == after.get(score.name)
            if result.previous_rank is not None and change:
                assert result.previous_rank == before.get(score.name)

    @rule(some=st.lists(scores, min_size=1, max_size=3), later=st.booleans())
    def dies_between_commit_and_index(self, some: list[Score], later: bool) -> None:
        """Or it is just slow: then its changes come when others have been."""
        for score in some:
            self.model.submit(score)
        with transaction.atomic():
            books, _ = submitting.store(self.board, some, "service:test", late=(), reviewed=False)
        if later:
            self.late.append((books[0].window, books[0].changes))

    @rule()
    def is_late(self) -> None:
        for window, changes in reversed(self.late):
            indexing.apply(window, changes)
        self.late.clear()

    @rule(name=st.sampled_from(NAMES))
    def removes(self, name: str) -> None:
        self.model.known.pop(name, None)
        curating.remove(self.board, name, "service:test")

    @rule(name=st.sampled_from(NAMES), hidden=st.booleans())
    def hides(self, name: str, hidden: bool) -> None:
        if known := self.model.known.get(name):
            self.model.known[name] = replace(known, hidden=hidden)
            (curating.hide if hidden else curating.unhide)(self.board, name, "service:test")

    @rule()
    def loses_redis(self) -> None:
        self.redis.empty()

    @rule()
    def resets(self) -> None:
        closing.reset(self.board, None)
        self.late.clear()
        self.model = Model(self.board)

    @rule(start=st.integers(0, 5), size=st.integers(1, 5), ties=st.sampled_from(["ordinal", "competition"]))
    def pages(self, start: int, size: int, ties: Ties) -> None:
        found = indexing.ask(self.window(), lambda ranking, key: ranking.page(key, start, start + size, ties))
        assert _plain(found.rows) == self.model.rows(ties)[start : start + size]

    @rule(name=st.sampled_from(NAMES), size=st.integers(1, 6))
    def looks_around(self, name: str, size: int) -> None:
        found = indexing.ask(self.window(), lambda ranking, key: ranking.around(key, name, size))
        rows = self.model.rows("ordinal")
        at = next((row[3] for row in rows if row[0] == name), None)
        if at is None:
            assert not found.rows
            return
        start = max(0, min(at - size // 2, len(rows) - size))
        assert _plain(found.rows) == rows[start : start + size]

    @invariant()
    def everybody_is_where_the_list_says(self) -> None:
        indexing._checked.clear()  # As if a second had passed.
        window = self.window()
        ties: Ties
        for ties in ("ordinal", "competition", "modified", "dense"):
            found = standings.of(window, NAMES, ties)
            assert (_plain(found.rows), found.total) == (self.model.rows(ties), len(self.model.ranked()))

    @invariant()
    def the_record_is_whole(self) -> None:
        window = Window.objects.get(board=self.board, closed_at=None)
        seqs = list(
            Submission.objects.filter(window=window, seq__isnull=False).order_by("seq").values_list("seq", flat=True)
        )
        assert seqs == list(range(1, window.seq + 1))
        assert window.entries == Entry.objects.filter(window=window, hidden=False).count()


def _plain(rows: Sequence[Row]) -> list[tuple[str, float, float, int]]:
    return [(row.name, row.score, row.subscore, row.rank) for row in rows]


@pytest.mark.parametrize("ranking", ["redis", "database"])
def test_ranks_are_those_of_a_sorted_list(ranking: str, redis: TestRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "redis", redis, raising=False)
    monkeypatch.setattr(World, "ranking", ranking)
    monkeypatch.setattr(indexing, "OVERTAKEN_SECONDS", 0.0)
    boards._found.clear()
    run_state_machine_as_test(
        World,
        settings=settings(
            max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
