"""The ranking at Momento: the contract, against a sorted list, and what becomes of it when Momento fails or forgets."""

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import grpc
import pytest
from django.conf import LazySettings
from django.core.checks import run_checks
from django.db import connection
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from accounts.errors import ApiError
from leaderboards import boards, indexing, momento_index, momento_ranking, standings, windows
from leaderboards.models import Board, Entry, Window
from leaderboards.momento_index import Index
from leaderboards.momento_ranking import ENTRIES_MAX, MomentoRanking
from leaderboards.ranking import Change, Found, Gap, Key, Missing, Ties, Unavailable
from leaderboards.rankings import key_of
from leaderboards.submitting import Score, Standing, submit
from leaderboards.verifying import verify
from tests.emulators.momento import Momento
from tests.leaderboards.oracle import Oracle, Wish
from tests.leaderboards.test_rankings import all_ties, few, numbers, oracle_ranks, orders, wishes
from tests.presence.redis import TestRedis

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("at_momento")]

CACHE = "fanfare-test"
ranking = MomentoRanking()
countable = all_ties.filter(lambda ties: ties != "dense")
some_examples = hypothesis_settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(autouse=True)
def _nobody_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(momento_index, "_silent_until", [0.0])


def known(oracle: Oracle, some: list[Wish]) -> None:
    """Half of it by a rebuild, half by changes."""
    half = len(some) // 2
    if half:
        oracle.write(some[:half])
    ranking.rebuild(oracle.key)
    changes = oracle.write(some[half:]) if some[half:] else []
    _, after = ranking.apply(oracle.key, changes)
    assert after == oracle.ranks(change.name for change in changes)


# --- The contract ---------------------------------------------------------------------------------


@given(orders, countable, wishes, few, few)
@some_examples
def test_pages_standings_and_neighbours_are_those_of_the_list(
    order: str, ties: Ties, some: list[Wish], start: int, size: int
) -> None:
    oracle = Oracle(order)
    known(oracle, some)
    rows = oracle.rows(ties)
    oracle.expect(ranking.page(oracle.key, start, start + size, ties), rows[start : start + size])
    asked = [name for name, _ in some[::2]] + ["nobody here"]
    oracle.expect(ranking.standings(oracle.key, asked, ties), [row for row in rows if row.name in asked])
    for at in range(0, len(rows), 3):
        first = max(min(at - size // 2, len(rows) - size), 0)
        oracle.expect(ranking.around(oracle.key, rows[at].name, size, ties), rows[first : first + size])
    oracle.expect(ranking.around(oracle.key, "nobody here", size, ties), [])
    assert ranking.head(oracle.key) == oracle.window.seq


@given(orders, countable, wishes, wishes, few)
@some_examples
def test_after_goes_on_from_a_place_whoever_has_moved_or_left(
    order: str, ties: Ties, some: list[Wish], later: list[Wish], limit: int
) -> None:
    oracle = Oracle(order)
    known(oracle, some)
    places = oracle.rows()[::4]
    ranking.apply(oracle.key, oracle.write(later[:5]) if later else [])
    sign = -1 if order == "desc" else 1
    for place in places:
        here = (sign * place.score, sign * place.subscore, place.place)
        behind = [row for row in oracle.rows(ties) if (sign * row.score, sign * row.subscore, row.place) > here]
        oracle.expect(ranking.after(oracle.key, place.key, place.name, limit, ties), behind[:limit])


@given(orders, countable, wishes, numbers, numbers, few, few)
@some_examples
def test_between_counts_all_and_gives_some(
    order: str, ties: Ties, some: list[Wish], low: float, high: float, start: int, limit: int
) -> None:
    oracle = Oracle(order)
    known(oracle, some)
    expected = [row for row in oracle.rows(ties) if low <= row.score <= high]
    found, size = ranking.between(oracle.key, low, high, start, limit, ties)
    assert size == len(expected)
    oracle.expect(found, expected[start : start + limit])


@given(orders, wishes, wishes, wishes)
@some_examples
def test_changes_give_the_ranks_before_and_after_all(
    order: str, some: list[Wish], second: list[Wish], third: list[Wish]
) -> None:
    oracle = Oracle(order)
    known(oracle, some)
    for each in (second, third):
        before = oracle.ranks(name for name, _ in each)
        changes = oracle.write(each) if each else []
        assert ranking.apply(oracle.key, changes) == (before, oracle.ranks(name for name, _ in each))
        oracle.expect(ranking.page(oracle.key, 0, 500), oracle.rows())


def test_many_changes_and_many_equal_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(momento_ranking, "NEAR", 10)
    monkeypatch.setattr(momento_index, "ELEMENTS_A_CALL", 100)
    oracle = Oracle()
    ranking.rebuild(oracle.key)
    first: list[Wish] = [(f"player {n}", (float(n % 3), 0.0)) for n in range(600)]
    assert ranking.apply(oracle.key, changes := oracle.write(first))[0] == [None] * 600
    after = oracle.ranks(change.name for change in changes)
    assert ranking.apply(oracle.key, changes) == (None, after)
    gone: list[Wish] = [(name, None) for name, _ in first[:5]]
    assert ranking.apply(oracle.key, oracle.write(gone)) == (oracle_ranks(after, first, gone), [None] * 5)
    for ties in ("competition", "modified", "ordinal"):
        rows = oracle.rows(ties)
        oracle.expect(ranking.page(oracle.key, 150, 250, ties), rows[150:250])
        oracle.expect(ranking.standings(oracle.key, [rows[250].name], ties), [rows[250]])
        place = oracle.rows()[333]
        oracle.expect(ranking.after(oracle.key, place.key, "somebody else", 5, ties), rows[334:339])
    assert verify(ranking, oracle.key) == []


def test_what_is_known_is_taken_again_as_nothing_and_a_gap_changes_nothing() -> None:
    oracle = Oracle()
    ranking.rebuild(oracle.key)
    first = oracle.write([("ada", (1.0, 0.0)), ("bob", (2.0, 0.0))])
    second = oracle.write([("ada", (3.0, 0.0)), ("eve", (0.0, 0.0))])
    with pytest.raises(Gap) as gap:
        ranking.apply(oracle.key, second)
    assert gap.value.head == 0
    assert ranking.apply(oracle.key, first) == ([None, None], [1, 0])
    assert ranking.apply(oracle.key, first) == (None, [1, 0])
    assert ranking.apply(oracle.key, first + second) == (None, [0, 1, 0, 2])
    oracle.expect(ranking.page(oracle.key, 0, 10), oracle.rows())


# --- What it cannot promise -----------------------------------------------------------------------


def test_dense_ranks_are_left_to_the_database() -> None:
    oracle = Oracle()
    known(oracle, [("ada", (1.0, 0.0)), ("bob", (1.0, 0.0)), ("eve", (0.0, 0.0))])
    assert "dense" in get_args(Ties)
    with pytest.raises(Unavailable):
        ranking.page(oracle.key, 0, 3, "dense")
    Board.objects.update(ranking="momento")
    oracle.window.board.ranking = "momento"
    found = standings.page(oracle.window, 0, 3, "dense")
    assert [row.rank for row in found.rows] == [0, 0, 1]


@pytest.mark.parametrize("limit", [None, ENTRIES_MAX + 1])
def test_a_board_without_bound_is_refused_when_it_is_made_changed_and_at_start(limit: int | None) -> None:
    with pytest.raises(ApiError) as refused:
        boards.put("arena", {"ranking": "momento", "entry_limit": limit}, None)
    assert (refused.value.status, refused.value.code) == (422, "refused")
    assert "entry_limit" in refused.value.message
    boards.put("arena", {"ranking": "momento", "entry_limit": ENTRIES_MAX}, None)
    with pytest.raises(ApiError):
        boards.put("arena", {"entry_limit": limit}, None)
    assert run_checks(databases=["default"]) == []
    Board.objects.update(entry_limit=limit)
    [found] = run_checks(databases=["default"])
    assert found.id == "leaderboards.E001"
    assert "arena" in found.msg


def test_without_a_key_there_is_no_such_board(settings: LazySettings) -> None:
    settings.MOMENTO_API_KEY = ""
    with pytest.raises(ApiError, match="MOMENTO_API_KEY"):
        boards.put("arena", {"ranking": "momento", "entry_limit": 10}, None)


def test_a_board_of_a_ranking_that_is_no_more_is_found_at_start() -> None:
    boards.put("arena", {}, None)
    Board.objects.update(ranking="that was once")
    assert [found.id for found in run_checks(databases=["default"])] == ["leaderboards.E001"]


def test_more_entries_than_it_takes_are_left_to_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(momento_ranking, "ENTRIES_MAX", 3)
    oracle = Oracle()
    oracle.write([(f"player {n}", (float(n), 0.0)) for n in range(4)])
    with pytest.raises(Unavailable):
        ranking.rebuild(oracle.key)
    Board.objects.update(ranking="momento")
    oracle.window.board.ranking = "momento"
    assert [row.name for row in standings.page(oracle.window, 0, 1, "ordinal").rows] == ["player 3"]


# --- What Momento forgets -------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["all", "state", "set", "dictionary", "never made", "of another epoch", "dropped"])
@pytest.mark.parametrize("changed", [True, False])
def test_an_index_that_is_not_whole_is_missing_and_never_wrong(momento: Momento, lost: str, *, changed: bool) -> None:
    oracle = Oracle()
    oracle.write([(f"player {n}", (float(n % 9), 0.0)) for n in range(20)])
    if lost != "never made":
        ranking.rebuild(oracle.key)
    key = oracle.key
    state = Index(key).look()
    if lost == "of another epoch":
        Window.objects.update(epoch="another")
        oracle.window.refresh_from_db()
    elif lost == "dropped":
        ranking.drop(key)
        assert momento.items(CACHE) == {}
    elif state:
        suffixes = {"all": ("", "z", "m"), "state": ("",), "set": ("z",), "dictionary": ("m",)}[lost]
        names = [f"fanfare:board:{key.id}" + (f":{state.data}:{one}" if one else "") for one in suffixes]
        for name in names:
            del momento.store.caches[CACHE][name.encode()]
    key = oracle.key
    if changed:
        with pytest.raises(Missing):
            ranking.apply(key, oracle.write([("player 3", (100.0, 0.0)), ("ada", (5.0, 0.0))]))
    questions: list[Callable[[], Found | tuple[Found, int]]] = [
        lambda: ranking.standings(key, ["player 1"]),
        lambda: ranking.around(key, "player 1", 3),
        lambda: ranking.page(key, 0, 1),
        lambda: ranking.after(key, Key(8.0, 0.0, 1), "player 8", 3),
        lambda: ranking.between(key, 0.0, 2.0, 0, 1),
    ]
    time.sleep(0.005)
    for question in questions[:2] if lost == "dictionary" and not changed else questions:
        with pytest.raises(Missing):
            question()
    ranking.rebuild(key)
    oracle.expect(ranking.page(key, 0, 100), oracle.rows())
    assert verify(ranking, key) == []


def test_an_index_lives_as_long_as_it_is_written_to_and_is_made_anew_by_who_asks(momento: Momento) -> None:
    oracle = Oracle()
    known(oracle, [("ada", (1.0, 0.0)), ("bob", (2.0, 0.0))])
    for number in range(3):
        momento.advance(80_000)
        ranking.apply(oracle.key, oracle.write([("ada", (float(number), 0.0))]))
    oracle.expect(ranking.page(oracle.key, 0, 9), oracle.rows())
    momento.advance(86_401)
    assert momento.items(CACHE) == {}
    Board.objects.update(ranking="momento")
    oracle.window.board.ranking = "momento"
    indexing._checked.clear()
    found = standings.page(oracle.window, 0, 9, "ordinal")
    oracle.expect(found, oracle.rows())
    assert len(momento.items(CACHE)) == 3


# --- What fails halfway ---------------------------------------------------------------------------

STEPS = ["SetIf", "DictionaryGet", "SortedSetGetRank", "SortedSetPut", "DictionarySet", "SortedSetRemove"]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("step", [*STEPS, "SortedSetLength"])
def test_a_change_that_fails_halfway_shows_nowhere_and_is_made_good(
    momento: Momento, monkeypatch: pytest.MonkeyPatch, step: str, *, late: bool
) -> None:
    monkeypatch.setattr(momento_index, "WAIT_SECONDS", 0.02)
    oracle = Oracle()
    known(oracle, [(f"player {n}", (float(n % 9), 0.0)) for n in range(12)])
    momento.fail(step, grpc.StatusCode.UNAVAILABLE, times=1, late=late)
    with pytest.raises(Unavailable):
        ranking.apply(oracle.key, oracle.write([("player 3", (100.0, 0.0)), ("ada", (5.0, 0.0))]))
    for _ in range(2):
        try:
            found = ranking.page(oracle.key, 0, 100)
        except (Missing, Unavailable):
            momento.advance(momento_index.WRITING_SECONDS)
        else:
            assert found.version < oracle.window.seq
            assert "ada" not in [row.name for row in found.rows]
    head = indexing._mending(ranking, oracle.window, lambda: ranking.head(oracle.key))
    indexing.catch_up(ranking, oracle.key, head, oracle.window.seq + 1)
    oracle.expect(ranking.page(oracle.key, 0, 100), oracle.rows())


def test_who_writes_too_late_writes_what_nobody_reads(momento: Momento, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process stands still in the middle of its calls, and goes on when others have made the index anew."""
    oracle = Oracle()
    known(oracle, [("ada", (1.0, 0.0)), ("bob", (2.0, 0.0))])
    put = Index.put

    def late(self: Index, *args: Any) -> None:
        monkeypatch.setattr(Index, "put", put)
        momento.advance(momento_index.WRITING_SECONDS + 1)
        ranking.rebuild(oracle.key)
        ranking.apply(oracle.key, oracle.write([("ada", (0.0, 0.0))]))
        put(self, *args)

    monkeypatch.setattr(Index, "put", late)
    with pytest.raises((Unavailable, Missing)):
        ranking.apply(oracle.key, oracle.write([("ada", (9.0, 0.0))]))
    oracle.expect(ranking.page(oracle.key, 0, 9), oracle.rows())


def test_a_momento_that_hangs_keeps_one_call_waiting(momento: Momento, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.momento.clients.ANSWER_SECONDS", 0.1)
    oracle = Oracle()
    known(oracle, [("ada", (1.0, 0.0))])
    momento.delay("*", 0.5)
    began, before = time.monotonic(), momento.calls("Get")
    for _ in range(20):
        with pytest.raises(Unavailable):
            ranking.page(oracle.key, 0, 1)
    assert time.monotonic() - began < 0.4
    assert momento.calls("Get") == before + 1


def test_what_fails_before_anything_is_written_leaves_the_index_as_it_was(momento: Momento) -> None:
    oracle = Oracle()
    known(oracle, [("ada", (1.0, 0.0))])
    momento.fail("DictionaryGet", grpc.StatusCode.RESOURCE_EXHAUSTED, times=1)
    changes = oracle.write([("ada", (2.0, 0.0))])
    with pytest.raises(Unavailable):
        ranking.apply(oracle.key, changes)
    assert ranking.apply(oracle.key, changes) == ([0], [0])


def test_a_change_takes_eleven_calls_and_a_page_three(momento: Momento) -> None:
    oracle = Oracle()
    known(oracle, [(f"player {n}", (float(n), 0.0)) for n in range(50)])
    before = momento.store.calls.total()
    ranking.apply(oracle.key, oracle.write([("player 7", (99.0, 0.0))]))
    assert momento.store.calls.total() - before == 11
    ranking.page(oracle.key, 0, 50)
    assert momento.store.calls.total() - before == 11 + 3


# --- Boards ---------------------------------------------------------------------------------------


@pytest.fixture
def board(redis: TestRedis) -> Board:
    return boards.put("arena", {"ranking": "momento", "entry_limit": 100, "operator": "set"}, None)[0]


SERVICE = "key:test"


def score(board: Board, *given: tuple[str, float]) -> list[Standing]:
    answers = submit(board, [Score(name, value) for name, value in given], SERVICE).results
    assert all(isinstance(answer, Standing) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Standing)]


def opened(board: Board) -> Window:
    window = windows.current(board)
    window.board = board
    return window


@pytest.mark.django_db(transaction=True)
def test_many_who_submit_and_read_at_once_see_no_wrong_rank(board: Board) -> None:
    score(board, *((f"still {n}", float(n * 10)) for n in range(20)))

    def work(number: int) -> int:
        chance, ranked = random.Random(number), 0
        try:
            for _ in range(10):
                [standing] = score(board, (f"player {number}", float(chance.randrange(200))))
                ranked += standing.rank is not None
                rows = standings.page(opened(board), 0, 100, "ordinal").rows
                assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
                assert {row.name for row in rows} >= {f"still {n}" for n in range(20)}
        finally:
            connection.close()
        return ranked

    with ThreadPoolExecutor(4) as pool:
        ranked = sum(pool.map(work, range(4)))
    assert ranked > 0
    [last] = score(board, ("player 0", 1000.0))
    assert (last.rank, last.stale) == (0, False)
    assert verify(ranking, key_of(opened(board))) == []


@pytest.mark.django_db(transaction=True)
def test_while_momento_is_down_scores_are_taken_and_the_database_answers(board: Board, momento: Momento) -> None:
    assert [standing.rank for standing in score(board, ("ada", 1.0), ("bob", 2.0))] == [1, 0]
    momento.fail("*", grpc.StatusCode.UNAVAILABLE)
    [standing] = score(board, ("ada", 3.0))
    assert (standing.rank, standing.stale) == (None, True)
    assert [row.name for row in standings.page(opened(board), 0, 9, "ordinal").rows] == ["ada", "bob"]
    momento.heal()
    [standing] = score(board, ("bob", 4.0))
    assert (standing.rank, standing.stale) == (0, False)
    assert [row.name for row in ranking.page(key_of(opened(board)), 0, 9).rows] == ["bob", "ada"]
    assert Entry.objects.count() == 2


def test_who_finds_a_record_that_lost_something_makes_it_anew(board: Board) -> None:
    score(board, ("ada", 1.0), ("bob", 2.0))
    window = opened(board)
    ranking.apply(key_of(window), [Change(window.seq + 1, "bob", None)])
    indexing._checked.clear()
    assert [row.name for row in standings.page(window, 0, 9, "ordinal").rows] == ["bob", "ada"]
