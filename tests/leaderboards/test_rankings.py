"""The contract of rankings, by each of them, against a sorted list."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leaderboards.database_ranking import DatabaseRanking
from leaderboards.models import Window
from leaderboards.ranking import Change, Gap, Key, Missing, Ranking, Ties, Unavailable, WindowKey
from leaderboards.redis_index import NEW_CHANGES, Index
from leaderboards.redis_ranking import RedisRanking
from tests.leaderboards.oracle import Oracle, Wish
from tests.presence.redis import TestRedis

pytestmark = pytest.mark.django_db

HOSTILE = ["a", "ab", "A", " ", "ö", "\U0010ffff", "€" * 66, "inf", "(1", "%s", "'; --", "x\\y", "-1"]
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.1, 1 / 3, 2.0**53, -(2.0**53), 2.0**53 - 1, 5e-324, -5e-324, 1e-300]
names = st.sampled_from(HOSTILE) | st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20
)
numbers = st.sampled_from(NUMBERS) | st.floats(-(2.0**53), 2.0**53, allow_nan=False)
results = st.tuples(numbers, numbers) | st.tuples(st.sampled_from([1.0, 2.0]), st.sampled_from([0.0, 1.0]))
wishes = st.lists(st.tuples(names, st.none() | results), max_size=30)
orders = st.sampled_from(["desc", "asc"])
all_ties = st.sampled_from(get_args(Ties))
few = st.integers(0, 12)
whole = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["redis", "database"])
def ranking(request: pytest.FixtureRequest, redis: TestRedis) -> Ranking:
    return RedisRanking() if request.param == "redis" else DatabaseRanking()


def known(ranking: Ranking, oracle: Oracle, some: list[Wish], ties: Ties = "ordinal") -> None:
    """Has the ranking know what is wished for, some of it by a rebuild, some by changes."""
    half = len(some) // 2
    if half:
        oracle.write(some[:half])
    ranking.rebuild(oracle.key)
    if ties == "dense":
        care_for_dense_ranks(ranking, oracle)
    changes = oracle.write(some[half:]) if some[half:] else []
    _, after = ranking.apply(oracle.key, changes)
    assert after == oracle.ranks(change.name for change in changes)


def care_for_dense_ranks(ranking: Ranking, oracle: Oracle) -> None:
    """An index does only after it has been asked."""
    try:
        ranking.page(oracle.key, 0, 1, "dense")
    except Missing:
        ranking.rebuild(oracle.key)


@given(orders, all_ties, wishes, few, few)
@whole
def test_a_page_is_a_slice_of_the_list(
    ranking: Ranking, order: str, ties: Ties, some: list[Wish], start: int, size: int
) -> None:
    oracle = Oracle(order)
    known(ranking, oracle, some, ties)
    oracle.expect(ranking.page(oracle.key, start, start + size, ties), oracle.rows(ties)[start : start + size])
    assert ranking.head(oracle.key) == oracle.window.seq


@given(orders, all_ties, wishes, st.lists(names, max_size=8))
@whole
def test_standings_are_those_of_the_list(
    ranking: Ranking, order: str, ties: Ties, some: list[Wish], asked: list[str]
) -> None:
    oracle = Oracle(order)
    known(ranking, oracle, some, ties)
    asked = asked + [name for name, _ in some[: len(asked)]]
    expected = [row for row in oracle.rows(ties) if row.name in asked]
    oracle.expect(ranking.standings(oracle.key, asked, ties), expected)
    for row in oracle.rows(ties)[:3]:
        oracle.expect(ranking.standings(oracle.key, [row.name], ties), [row])


@given(orders, all_ties, wishes, few)
@whole
def test_around_has_the_named_one_in_the_middle_or_as_near_as_the_ends_allow(
    ranking: Ranking, order: str, ties: Ties, some: list[Wish], size: int
) -> None:
    oracle = Oracle(order)
    known(ranking, oracle, some, ties)
    rows = oracle.rows(ties)
    for at, row in enumerate(rows):
        start = max(min(at - size // 2, len(rows) - size), 0)
        oracle.expect(ranking.around(oracle.key, row.name, size, ties), rows[start : start + size])
    oracle.expect(ranking.around(oracle.key, "nobody here", size, ties), [])


@given(orders, all_ties, wishes, st.lists(st.tuples(names, st.none() | results), max_size=5), few)
@whole
def test_after_goes_on_from_a_place_whoever_has_moved_or_left(
    ranking: Ranking, order: str, ties: Ties, some: list[Wish], later: list[Wish], limit: int
) -> None:
    oracle = Oracle(order)
    known(ranking, oracle, some, ties)
    places = oracle.rows()
    if later:
        ranking.apply(oracle.key, oracle.write(later))
    sign = -1 if order == "desc" else 1
    for place in places:
        here = (sign * place.score, sign * place.subscore, place.place)
        behind = [row for row in oracle.rows(ties) if (sign * row.score, sign * row.subscore, row.place) > here]
        oracle.expect(ranking.after(oracle.key, place.key, place.name, limit, ties), behind[:limit])
    oracle.expect(ranking.page(oracle.key, 0, 100, ties), oracle.rows(ties))  # Asking has left nothing behind.


@given(orders, all_ties, wishes, numbers, numbers, few, few)
@whole
def test_between_counts_all_and_gives_some(
    ranking: Ranking, order: str, ties: Ties, some: list[Wish], low: float, high: float, start: int, limit: int
) -> None:
    oracle = Oracle(order)
    known(ranking, oracle, some, ties)
    expected = [row for row in oracle.rows(ties) if low <= row.score <= high]
    found, size = ranking.between(oracle.key, low, high, start, limit, ties)
    assert size == len(expected)
    oracle.expect(found, expected[start : start + limit])


@given(orders, wishes, st.lists(wishes, max_size=5), st.booleans())
@whole
def test_changes_give_the_ranks_before_and_after_all(
    redis: TestRedis, order: str, some: list[Wish], more: list[list[Wish]], dense: bool
) -> None:
    ranking, oracle = RedisRanking(), Oracle(order)
    known(ranking, oracle, some, "dense" if dense else "ordinal")
    for each in more:
        before = oracle.ranks(name for name, _ in each)
        changes = oracle.write(each) if each else []
        assert ranking.apply(oracle.key, changes) == (before, oracle.ranks(name for name, _ in each))
        oracle.expect(ranking.page(oracle.key, 0, 500), oracle.rows())
        if dense:
            oracle.expect(ranking.page(oracle.key, 0, 500, "dense"), oracle.rows("dense"))


def test_many_changes_are_applied_in_steps(redis: TestRedis) -> None:
    ranking, oracle = RedisRanking(), Oracle()
    ranking.rebuild(oracle.key)
    first: list[Wish] = [(f"player {n}", (float(n % 100), 0.0)) for n in range(1500)]
    second: list[Wish] = [(f"player {n * 7 % 2000}", (float(n % 90), 1.0)) for n in range(2500)]
    ranking.apply(oracle.key, oracle.write(first))
    before = oracle.ranks(name for name, _ in second)
    changes = oracle.write(second)
    after = oracle.ranks(name for name, _ in second)
    ranking.apply(oracle.key, changes[:1200])
    assert ranking.apply(oracle.key, changes) == (None, after)
    assert ranking.apply(oracle.key, changes) == (None, after)
    with pytest.raises(Gap):
        ranking.apply(oracle.key, [Change(change.seq + 5000, *change[1:]) for change in changes])
    ranking.rebuild(oracle.key)
    third: list[Wish] = [(name, None) for name, _ in second]
    assert ranking.apply(oracle.key, oracle.write(third))[0] == oracle_ranks(after, second, third)
    oracle.expect(ranking.page(oracle.key, 0, 5000), oracle.rows())
    assert before.count(None) > 0


def oracle_ranks(ranks: list[int | None], of: list[Wish], wanted: list[Wish]) -> list[int | None]:
    found = {name: rank for (name, _), rank in zip(of, ranks, strict=True)}
    return [found[name] for name, _ in wanted]


def test_what_is_known_is_taken_again_as_nothing(redis: TestRedis) -> None:
    ranking, oracle = RedisRanking(), Oracle()
    ranking.rebuild(oracle.key)
    first = oracle.write([("ada", (1.0, 0.0)), ("bob", (2.0, 0.0))])
    second = oracle.write([("ada", (3.0, 0.0)), ("eve", (0.0, 0.0))])
    assert ranking.apply(oracle.key, first) == ([None, None], [1, 0])
    assert ranking.apply(oracle.key, first) == (None, [1, 0])
    assert ranking.apply(oracle.key, first + second) == (None, [0, 1, 0, 2])
    assert ranking.apply(oracle.key, first) == (None, [0, 1])
    oracle.expect(ranking.page(oracle.key, 0, 10), oracle.rows())


def test_a_gap_names_the_head_and_changes_nothing(redis: TestRedis) -> None:
    ranking, oracle = RedisRanking(), Oracle()
    ranking.rebuild(oracle.key)
    changes = oracle.write([("ada", (1.0, 0.0)), ("bob", (2.0, 0.0)), ("eve", (3.0, 0.0))])
    ranking.apply(oracle.key, changes[:1])
    with pytest.raises(Gap) as gap:
        ranking.apply(oracle.key, changes[2:])
    assert gap.value.head == 1
    assert [row.name for row in ranking.page(oracle.key, 0, 10).rows] == ["ada"]
    ranking.apply(oracle.key, changes[1:])
    oracle.expect(ranking.page(oracle.key, 0, 10), oracle.rows())


@pytest.mark.parametrize("lost", ["never made", "dropped", "of another epoch", "0", "1", "2", "3"])
def test_without_a_whole_index_of_this_epoch_everything_is_missing(redis: TestRedis, lost: str) -> None:
    ranking, oracle = RedisRanking(), Oracle()
    oracle.write([(f"player {n}", (float(n % 9), 0.0)) for n in range(NEW_CHANGES)])
    if lost != "never made":
        ranking.rebuild(oracle.key)
        care_for_dense_ranks(ranking, oracle)
    changes = oracle.write([("ada", (1.0, 0.0))])
    if lost.isdigit():  # Redis has thrown out one key, as when it is full.
        assert redis.client.delete(Index(oracle.key).keys[int(lost)])
    elif lost == "dropped":
        ranking.drop(oracle.key)
    elif lost == "of another epoch":
        Window.objects.update(epoch="another")
        oracle.window.refresh_from_db()
    key = oracle.key
    for question in (
        lambda: ranking.head(key),
        lambda: ranking.apply(key, changes),
        lambda: ranking.page(key, 0, 1),
        lambda: ranking.standings(key, ["ada"]),
        lambda: ranking.around(key, "ada", 3),
        lambda: ranking.after(key, Key(1.0, 0.0, 1), "ada", 3),
        lambda: ranking.between(key, 0.0, 2.0, 0, 1),
    ):
        with pytest.raises(Missing):
            question()
    ranking.rebuild(key)
    oracle.expect(ranking.page(key, 0, 2000), oracle.rows())


def test_the_index_of_a_new_window_is_made_by_its_changes(redis: TestRedis) -> None:
    ranking, oracle = RedisRanking(), Oracle()
    z, m, _i, d = Index(oracle.key).keys
    redis.client.zadd(z, {"left over": 1})
    redis.client.zadd(d, {"left over": 1})
    redis.client.hset(m, "left over", "left over")
    first, second = oracle.write([("ada", (1.0, 0.0))]), oracle.write([("bob", (2.0, 0.0))])
    with pytest.raises(Gap) as gap:
        ranking.apply(oracle.key, second)
    assert gap.value.head == 0
    assert ranking.apply(oracle.key, first) == ([None], [0])
    assert ranking.apply(oracle.key, second) == ([None], [0])
    oracle.expect(ranking.page(oracle.key, 0, 10), oracle.rows())
    ranking.apply(oracle.key, oracle.write([("ada", None), ("bob", None)]))
    oracle.expect(ranking.page(oracle.key, 0, 10), [])
    care_for_dense_ranks(ranking, oracle)
    ranking.apply(oracle.key, oracle.write([("ada", (1.0, 0.0))]))
    oracle.expect(ranking.page(oracle.key, 0, 10, "dense"), oracle.rows("dense"))


def test_changes_of_a_new_window_do_not_touch_the_index_of_another_epoch(redis: TestRedis) -> None:
    ranking, oracle = RedisRanking(), Oracle()
    old = oracle.key
    ranking.apply(old, oracle.write([("ada", (1.0, 0.0))]))
    with pytest.raises(Missing):
        ranking.apply(replace(old, epoch="another"), oracle.write([("bob", (1.0, 0.0))]))
    assert [row.name for row in ranking.page(old, 0, 10).rows] == ["ada"]


def test_a_redis_that_is_away_is_unavailable(redis: TestRedis, settings: object) -> None:
    settings.REDIS_URL = "unix:///nowhere/valkey.sock"  # type: ignore[attr-defined]
    for question in (RedisRanking().head, RedisRanking().rebuild, RedisRanking().drop):
        with pytest.raises(Unavailable):
            question(WindowKey(1, "epoch", descending=True))


def test_an_index_leaves_nothing_when_it_is_dropped(redis: TestRedis) -> None:
    ranking, oracle = RedisRanking(), Oracle()
    known(ranking, oracle, [("ada", (1.0, 0.0)), ("bob", (1.0, 2.0))], "dense")
    assert len(redis.client.keys("fanfare:board:*")) == 4
    ranking.drop(oracle.key)
    assert redis.client.keys("*") == []


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_an_archived_window_is_answered_by_its_final_ranks(order: str) -> None:
    ranking, oracle = DatabaseRanking(), Oracle(order)
    pairs = list(itertools.product([1.0, 3.0, 2.0], [0.0, 1.0]))
    oracle.write([(f"player {at}", pairs[at % 6]) for at in range(30)])
    for row in oracle.rows():
        oracle.window.entry_set.filter(owner__name=row.name).update(rank=row.rank)
    key = WindowKey(oracle.window.pk, oracle.window.epoch, order == "desc", archived=True)
    for ties in get_args(Ties):
        rows = oracle.rows(ties)
        oracle.expect(ranking.page(key, 5, 9, ties), rows[5:9])
        oracle.expect(ranking.standings(key, ["player 3", "player 29", "nobody"], ties), [
            row for row in rows if row.name in ("player 3", "player 29")
        ])  # fmt: skip
        oracle.expect(ranking.around(key, rows[1].name, 5, ties), rows[:5])
        oracle.expect(ranking.around(key, rows[28].name, 5, ties), rows[25:])
        oracle.expect(ranking.around(key, "nobody", 5, ties), [])
        oracle.expect(ranking.after(key, rows[7].key, rows[7].name, 4, ties), rows[8:12])
        oracle.expect(ranking.after(key, rows[7].key, "erased", 4, ties), rows[8:12])
