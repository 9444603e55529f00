"""Boards: made, changed, found and deleted, with their rules."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import connection
from django.test.utils import CaptureQueriesContext

from accounts.errors import ApiError
from accounts.models import AuditEntry
from leaderboards import boards, closing, curating, windows
from leaderboards.models import Board, Entry, Window
from leaderboards.ranking import Missing
from leaderboards.rankings import key_of, ranking_of
from tests.leaderboards.boards_at_work import SERVICE, at, at_once, labels, make, opened, score

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis")]


def audited() -> list[tuple[str, str]]:
    return list(AuditEntry.objects.order_by("pk").values_list("action", "subject"))


# --- Made by the first score ----------------------------------------------------------------------


def test_the_first_score_of_a_service_makes_a_board_with_defaults() -> None:
    board = boards.for_submission("arena", may_create=True)
    assert (board.order, board.operator, board.schedules, board.timezone) == ("desc", "best", ["none"], "UTC")
    assert (board.retention, board.submit, board.read, board.ranking) == (90, "service", "user", "redis")
    assert labels(board) == ["1*"]
    assert audited() == [("board.created", "board:arena")]
    assert boards.for_submission("arena", may_create=False) == board


def test_at_once_they_make_one() -> None:
    assert len(set(at_once(6, lambda: boards.for_submission("arena", may_create=True).pk))) == 1
    assert Board.objects.count() == Window.objects.count() == AuditEntry.objects.count() == 1


@pytest.mark.parametrize(("may_create", "setting"), [(False, True), (True, False)])
def test_else_there_has_to_be_one(may_create: bool, setting: bool, settings: LazySettings) -> None:
    settings.LEADERBOARD_AUTO_CREATE = setting
    with pytest.raises(ApiError, match="no leaderboard arena") as refused:
        boards.for_submission("arena", may_create)
    assert (refused.value.status, refused.value.code) == (404, "unknown_board")
    assert boards.find("arena") is None


# --- Put ------------------------------------------------------------------------------------------


def test_a_board_is_made_and_changed() -> None:
    board, created = boards.put("arena", {"order": "asc", "schedules": ["daily"], "metadata": {"a": 1}}, None)
    assert created
    assert (board.order, board.schedules) == ("asc", ["daily"])
    changed, created = boards.put("arena", {"operator": "set", "min_score": 0.0}, None)
    assert not created
    assert (changed.pk, changed.order, changed.operator, changed.min_score) == (board.pk, "asc", "set", 0.0)
    assert audited() == [("board.created", "board:arena"), ("board.changed", "board:arena")]
    entry = AuditEntry.objects.get(action="board.changed")
    assert entry.before
    assert entry.after
    assert {name for name in boards.SETTINGS if entry.before[name] != entry.after[name]} == {"operator", "min_score"}


def test_the_same_again_changes_nothing() -> None:
    make(schedules=["daily"], rate="10/m")
    make(schedules=["daily"], rate="10/m")
    assert audited() == [("board.created", "board:arena")]


def test_changes_at_once_all_take_effect() -> None:
    make()
    steps: Iterator[dict[str, Any]] = iter(
        [{"operator": "set"}, {"retention": 7}, {"rate": "10/m"}, {"schedules": ["weekly", "none"]}]
    )
    at_once(4, lambda: boards.put("arena", next(steps), None))
    board = Board.objects.get()
    assert (board.operator, board.retention, board.rate, board.schedules) == ("set", 7, "10/m", ["weekly", "none"])
    assert Window.objects.filter(closed_at=None).count() == 2


def test_windows_of_removed_schedules_are_closed_and_those_of_new_ones_opened() -> None:
    with at("2026-11-21T12:00"):
        board = make(schedules=["none", "daily"])
        score(board, ("ada", 1))
        board = make(schedules=["weekly", "none"])
        assert labels(board) == ["2026-W47*", "2026-11-21", "1*"]
        assert windows.current(board).label == "2026-W47"
        board = make(schedules=["daily", "weekly"])
        assert labels(board) == ["2026-11-21.2*", "2026-W47*", "2026-11-21", "1"]


def test_the_order_is_fixed_while_any_window_has_entries() -> None:
    board = make(schedules=["none", "daily"])
    score(board, ("ada", 1))
    curating.hide(board, "ada", SERVICE)
    with pytest.raises(ApiError, match="the board has entries") as refused:
        make(order="asc")
    assert (refused.value.status, refused.value.code) == (422, "order_fixed")
    make(order="desc", retention=3)
    for schedule in board.schedules:
        closing.reset(board, None, schedule)
    closing.archive(60)
    with pytest.raises(ApiError, match="the board has entries"):  # They are read in their order.
        make(order="asc")
    Entry.objects.all().delete()
    assert make(order="asc").order == "asc"


def test_a_change_counts_for_a_submission_that_has_the_board_as_it_was() -> None:
    old = make()
    boards.put("arena", {"max_score": 5.0, "schedules": ["daily", "none"]}, None)
    (refusal,) = score(old, ("ada", 6)).results
    assert refusal.code == "score_out_of_bounds"  # type: ignore[union-attr]
    score(old, ("ada", 4))
    assert [window.entries for window in opened(old)] == [1, 1]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"schedules": ["yearly"]}, "schedule"),
        ({"schedules": []}, "schedule"),
        ({"schedules": ["daily", "daily"]}, "schedule"),
        ({"schedules": ["0 0 * * mon", "0 0  * * MON"]}, "schedule"),
        ({"schedules": ["none", "hourly", "daily", "weekly", "monthly"]}, "schedule"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"min_score": 2.0, "max_score": 1.0}, "min_score"),
        ({"max_score": 1e300}, "max_score"),
        ({"min_score": float("nan")}, "min_score"),
        ({"max_step": -1.0}, "max_step"),
        ({"rate": "often"}, "rate"),
        ({"ranking": "paper"}, "ranking"),
        ({"metadata": {"a": "x" * 4096}}, "metadata"),
    ],
)
@pytest.mark.parametrize("there", [False, True])
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], field: str, there: bool) -> None:
    if there:
        make()
    with pytest.raises(ApiError) as refused:
        make(**changes)
    assert (refused.value.status, refused.value.code, list(refused.value.fields or {})) == (422, "refused", [field])
    assert Board.objects.count() == there


def test_bounds_go_together_with_those_that_are_there() -> None:
    make(min_score=5.0)
    with pytest.raises(ApiError, match="at most max_score"):
        make(max_score=4.0)
    assert Board.objects.get().max_score is None


def test_another_ranking_takes_over_and_the_index_of_the_one_before_is_dropped() -> None:
    board = make()
    score(board, ("ada", 1))
    key, before = key_of(opened(board)[0]), ranking_of(board)
    board = make(ranking="database")
    with pytest.raises(Missing):
        before.head(key)
    assert ranking_of(board).head(key) == 1


# --- Found ----------------------------------------------------------------------------------------


def test_a_process_reads_a_board_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 1000.0
    monkeypatch.setattr(boards, "time", SimpleNamespace(monotonic=lambda: seconds))
    board = make()
    with CaptureQueriesContext(connection) as queries:
        assert [boards.find("arena") for _ in range(9)] == [board] * 9
        assert [boards.find("nothing") for _ in range(9)] == [None] * 9
    assert len(queries) == 2
    Board.objects.update(retention=5)
    seconds += 0.9
    assert boards.find("arena").retention == 90  # type: ignore[union-attr]
    seconds += 0.1
    assert boards.find("arena").retention == 5  # type: ignore[union-attr]


def test_own_changes_are_known_at_once() -> None:
    make()
    assert boards.find("arena")
    make(retention=5)
    assert boards.find("arena").retention == 5  # type: ignore[union-attr]
    boards.delete("arena", None)
    assert boards.find("arena") is None
    boards.for_submission("arena", may_create=True)
    assert boards.find("arena")


def test_only_so_many_are_kept_in_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "FOUND_MAX", 3)
    for number in range(9):
        boards.find(f"b{number}")
    assert list(boards._found._read) == ["b6", "b7", "b8"]


# --- Deleted --------------------------------------------------------------------------------------


def test_a_deleted_board_is_gone_and_its_index_too() -> None:
    board = make()
    score(board, ("ada", 1))
    key = key_of(opened(board)[0])
    boards.delete("arena", None)
    assert boards.find("arena") is None
    assert labels(board) == ["1"]
    with pytest.raises(Missing):
        ranking_of(board).head(key)
    with pytest.raises(ApiError, match="no leaderboard arena"):
        score(board, ("ada", 1))
    with pytest.raises(ApiError, match="no leaderboard arena"):
        boards.delete("arena", None)
    assert audited() == [("board.created", "board:arena"), ("board.deleted", "board:arena")]
    assert make().pk != board.pk
