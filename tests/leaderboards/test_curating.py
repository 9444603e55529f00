"""Removed, hidden, evicted, reviewed and erased: each a numbered change that is on the record."""

import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import pytest
from django.db import connection

from accounts import users
from accounts.errors import ApiError
from accounts.models import AuditEntry, User
from accounts.principals import Kind, Principal
from leaderboards import boards, closing, curating, erasure, standings, windows
from leaderboards.book import Book
from leaderboards.models import Board, Entry, Owner, Submission, Window
from leaderboards.rankings import key_of, ranking_of
from tests.leaderboards.boards_at_work import SERVICE, at_once, make, names, opened, score

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis")]

OLGA = Principal(Kind.OPERATOR, "olga")
OPERATOR = str(OLGA)
State = Submission.State


@pytest.fixture(params=["redis", "database"])
def board(request: pytest.FixtureRequest) -> Board:
    return make(schedules=["none", "daily"], ranking=request.param)


def shown(board: Board) -> list[list[str]]:
    """Who is in each open window, best first."""
    return [names(standings.page(window, 0, 1000, "ordinal").rows) for window in opened(board)]


def is_whole(board: Board) -> None:
    """Counts, numbers and the index agree with the entries."""
    for window in opened(board):
        ranked = Entry.objects.filter(window=window, hidden=False).count()
        assert window.entries == ranked
        numbers = Submission.objects.filter(window=window, seq__isnull=False).order_by("seq")
        assert list(numbers.values_list("seq", flat=True)) == list(range(1, window.seq + 1))
        page = standings.page(window, 0, 1, "ordinal")
        assert (page.total, page.version) == (ranked, window.seq)
        if ranking_of(board).indexed:
            assert ranking_of(board).head(key_of(window)) == window.seq


def record(board: Board, name: str) -> list[tuple[Any, ...]]:
    """In the main window."""
    rows = Submission.objects.filter(window=opened(board)[0], owner__name=name).order_by("pk")
    return list(rows.values_list("operator", "seq", "score", "place", "actor"))


# --- Removed, hidden ------------------------------------------------------------------------------


def test_a_removed_name_is_out_of_every_open_window_and_begins_anew(board: Board) -> None:
    score(board, ("ada", 9), ("bob", 8))
    curating.remove(board, "ada", OPERATOR)
    assert shown(board) == [["bob"], ["bob"]]
    assert record(board, "ada") == [("best", 1, 9.0, 1, SERVICE), ("remove", 3, None, None, OPERATOR)]
    score(board, ("ada", 1))
    assert shown(board) == [["bob", "ada"], ["bob", "ada"]]
    is_whole(board)


def test_removing_nobody_changes_nothing(board: Board) -> None:
    score(board, ("ada", 9))
    for name in ("nobody", "ada", "ada"):
        curating.remove(board, name, OPERATOR)
    assert Submission.objects.filter(operator="remove").count() == 2
    is_whole(board)


def test_who_is_hidden_is_not_ranked_and_has_the_same_place_afterwards(board: Board) -> None:
    score(board, ("ada", 9), ("bob", 9), ("eve", 9))
    curating.hide(board, "ada", OPERATOR)
    assert shown(board) == [["bob", "eve"]] * 2
    is_whole(board)
    curating.unhide(board, "ada", OPERATOR)
    assert shown(board) == [["ada", "bob", "eve"]] * 2
    is_whole(board)
    assert record(board, "ada") == [
        ("best", 1, 9.0, 1, SERVICE),
        ("hide", 4, 9.0, None, OPERATOR),
        ("unhide", 5, 9.0, 1, OPERATOR),
    ]


def test_scores_of_who_is_hidden_count_but_do_not_show(board: Board) -> None:
    score(board, ("ada", 9), ("bob", 8))
    curating.hide(board, "bob", OPERATOR)
    score(board, ("bob", 10))
    assert shown(board) == [["ada"]] * 2
    curating.unhide(board, "bob", OPERATOR)
    assert shown(board) == [["bob", "ada"]] * 2
    is_whole(board)


@pytest.mark.parametrize("change", [curating.hide, curating.unhide])
def test_twice_is_once_also_at_once(board: Board, change: Any) -> None:
    score(board, ("ada", 9), ("bob", 8))
    curating.hide(board, "bob", OPERATOR)
    at_once(4, lambda: change(board, "bob", OPERATOR))
    assert len(record(board, "bob")) == (2 if change is curating.hide else 3)
    is_whole(board)


@pytest.mark.parametrize("change", [curating.hide, curating.unhide])
def test_who_has_no_score_cannot_be_hidden(board: Board, change: Any) -> None:
    score(make("other"), ("ada", 1))
    for name in ("ada", "nobody"):
        with pytest.raises(ApiError, match="has no score") as refused:
            change(board, name, OPERATOR)
        assert (refused.value.status, refused.value.code) == (404, "not_ranked")


# --- Entry limits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_those_behind_the_limit_are_evicted(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curating, "ROWS_AT_ONCE", 4)
    board = make(order=order, entry_limit=5, schedules=["none", "daily"])
    score(board, *[(f"n{number:02}", number // 3) for number in range(20)])
    curating.hide(board, "n00", OPERATOR)
    best = shown(board)[0]
    at_once(3, lambda: curating.evict(60))
    assert shown(board) == [best[:5]] * 2
    assert Entry.objects.filter(window=opened(board)[0]).count() == 6  # With the hidden one.
    assert set(Submission.objects.filter(operator="remove").values_list("actor", flat=True)) == {"system:limit"}
    is_whole(board)
    score(board, ("late", 100 if order == "desc" else -1))
    curating.evict(60)
    assert shown(board) == [["late", *best[:4]]] * 2
    is_whole(board)


def test_boards_without_a_limit_keep_all() -> None:
    board = make()
    score(board, *[(f"n{number}", number) for number in range(20)])
    curating.evict(60)
    assert len(shown(board)[0]) == 20


# --- Held -----------------------------------------------------------------------------------------


@pytest.fixture
def held(board: Board) -> Submission:
    make(max_step=10.0)
    score(board, ("ada", 5), ("bob", 20))
    score(board, ("ada", 100))
    return Submission.objects.get(state=State.HELD)


def test_what_is_approved_counts_as_it_was_given(board: Board, held: Submission) -> None:
    assert shown(board) == [["bob", "ada"]] * 2
    curating.approve(held.pk, OLGA)
    assert shown(board) == [["ada", "bob"]] * 2
    held.refresh_from_db()
    assert held.state == State.APPROVED
    assert record(board, "ada")[-1] == ("best", 3, 100.0, 3, OPERATOR)
    is_whole(board)


def test_approved_at_once_is_approved_once(board: Board, held: Submission) -> None:
    make(operator="incr")
    Submission.objects.filter(pk=held.pk).update(operator="incr")

    def approve() -> str:
        try:
            curating.approve(held.pk, OLGA)
        except ApiError as error:
            return error.code
        return ""

    assert sorted(at_once(4, approve)) == ["", "wrong_state", "wrong_state", "wrong_state"]
    assert record(board, "ada")[-1][2] == 105.0
    is_whole(board)


def test_what_is_rejected_never_counts(board: Board, held: Submission) -> None:
    curating.reject(held.pk, OLGA)
    for change in (curating.approve, curating.reject):
        with pytest.raises(ApiError, match="has been reviewed") as refused:
            change(held.pk, OLGA)
        assert refused.value.status == 409
    assert shown(board) == [["bob", "ada"]] * 2
    (entry,) = AuditEntry.objects.filter(action__startswith="score.")
    assert (entry.action, entry.actor, entry.after) == ("score.rejected", OPERATOR, {"submission": held.pk})


def test_what_a_rule_is_against_stays_held(board: Board, held: Submission) -> None:
    make(max_score=50.0)
    with pytest.raises(ApiError, match="max_score"):
        curating.approve(held.pk, OLGA)
    held.refresh_from_db()
    assert held.state == State.HELD


def test_what_was_held_in_a_window_that_is_closed_counts_in_the_present_one(board: Board, held: Submission) -> None:
    closing.reset(board, None)
    closing.archive(60)
    curating.approve(held.pk, OLGA)
    assert shown(board) == [["ada"], ["ada", "bob"]]
    previous = windows.find(board, "previous")
    assert previous
    assert names(standings.page(previous, 0, 9, "ordinal").rows) == ["bob", "ada"]


def test_of_a_deleted_board_nothing_is_approved(held: Submission) -> None:
    boards.delete("arena", None)
    with pytest.raises(ApiError, match="no leaderboard arena"):
        curating.approve(held.pk, OLGA)


# --- Erased ---------------------------------------------------------------------------------------


def erase(user: str) -> None:
    User.objects.create(pk=user)
    assert users.erase(None, user)


def test_of_an_erased_user_nothing_is_left(board: Board, held: Submission) -> None:
    other = make("other", schedules=["none"])
    score(other, ("bob", 3), ("ada", 2), ("eve", 1))
    closing.reset(other, None)
    closing.archive(60)
    score(board, ("eve", 1))
    curating.hide(board, "ada", OPERATOR)
    erase("ada")
    assert not Owner.objects.filter(name="ada").exists()
    assert shown(board) == [["bob", "eve"]] * 2
    archived = windows.find(other, "previous")
    assert archived
    page = standings.page(archived, 0, 9, "ordinal")
    assert (names(page.rows), [row.rank for row in page.rows]) == (["bob", "eve"], [0, 2])
    for window in Window.objects.all():
        assert window.entries == Entry.objects.filter(window=window, hidden=False).count()
    score(board, ("ada", 1))
    assert shown(board) == [["bob", "eve", "ada"]] * 2


def test_indexes_hear_of_it_and_can_be_made_anew_without(board: Board) -> None:
    score(board, ("ada", 9), ("bob", 8), ("eve", 7))
    erase("bob")
    for window in opened(board):
        if ranking_of(board).indexed:
            assert ranking_of(board).head(key_of(window)) == window.seq
            ranking_of(board).rebuild(key_of(window))
    assert shown(board) == [["ada", "eve"]] * 2


def test_a_score_that_comes_while_its_user_is_erased_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite lets nobody write meanwhile.")
    first, other = make("first"), make("other")
    score(first, ("eve", 5))
    score(other, ("bob", 1))
    write, comes = Book.write, [lambda: score(other, ("eve", 9))]

    def write_late(book: Book, numbers: Mapping[str, int], actor: str, now: datetime) -> None:
        write(book, numbers, actor, now)
        if not actor and comes:
            at_once(1, comes.pop())

    monkeypatch.setattr(Book, "write", write_late)
    erase("eve")
    assert not comes
    assert not Owner.objects.filter(name="eve").exists()
    assert (shown(first), shown(other)) == ([[]], [["bob"]])
    assert [window.entries for window in Window.objects.order_by("pk")] == [0, 1]


def test_who_has_no_scores_is_nobody_here() -> None:
    erasure.erase_user("nobody")
    assert not Owner.objects.exists()


# --- All at once ----------------------------------------------------------------------------------


def test_whatever_is_done_at_once_nothing_deadlocks_and_all_stays_whole(board: Board) -> None:
    def work() -> None:
        for _ in range(25):
            name = f"n{random.randrange(8)}"
            random.choice(steps)(name)

    steps: list[Callable[[str], object]] = [
        lambda name: score(board, *[(f"n{number}", random.random()) for number in random.sample(range(8), 4)]),
        lambda name: score(board, (name, random.random())),
        lambda name: curating.remove(board, name, OPERATOR),
        lambda name: suppressed(curating.hide, board, name, OPERATOR),
        lambda name: suppressed(curating.unhide, board, name, OPERATOR),
        lambda name: closing.reset(board, None, random.choice(["none", "daily"])),
        lambda name: make(entry_limit=random.randrange(2, 6)),
        lambda name: make(schedules=random.choice([["none", "daily"], ["none", "daily", "weekly"]])),
        lambda name: curating.evict(60),
        lambda name: closing.archive(60),
        lambda name: closing.purge(60),
    ]
    at_once(6, work)
    curating.evict(60)
    closing.archive(60)
    is_whole(board)
    for window in Window.objects.filter(closed_at__isnull=False):
        ranks = list(Entry.objects.filter(window=window, hidden=False).order_by("rank").values_list("rank", flat=True))
        assert ranks == list(range(window.entries))


def suppressed(change: Callable[[Board, str, str], None], board: Board, name: str, actor: str) -> None:
    with suppress(ApiError):
        change(board, name, actor)
