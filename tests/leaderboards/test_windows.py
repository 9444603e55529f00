"""Windows: opened, rolled over, reset, archived, told of and deleted; each once, whoever does it and however often."""

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import LazySettings
from django.utils import timezone
from django.utils.module_loading import import_string

from accounts.errors import ApiError
from accounts.models import AuditEntry
from adapters import outbox
from adapters.models import Delivery, Destination
from leaderboards import boards, closing, curating, standings, windows
from leaderboards.models import Board, Entry, Submission, Window
from leaderboards.ranking import Missing, Unavailable
from leaderboards.rankings import key_of, ranking_of
from tests.leaderboards.boards_at_work import SERVICE, at, at_once, labels, make, opened, score

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("redis")]

LONG = 60.0
DAY = timedelta(days=1)


@pytest.fixture
def told() -> None:
    """A destination that wants to know of closed windows."""
    Destination.objects.create(name="crm", kind="table", events=["board.closed"])
    outbox.forget_wants()


def events() -> list[dict[str, Any]]:
    """What destinations are owed."""
    return [json.loads(row.body) for row in Delivery.objects.order_by("id")]


def final(window: Window) -> dict[str, int | None]:
    return dict(Entry.objects.filter(window=window).values_list("owner__name", "rank"))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# --- Open -----------------------------------------------------------------------------------------


def test_each_schedule_has_one_open_window_and_the_first_is_the_main_one() -> None:
    with at("2026-11-21T14:30:15"):
        board = make(schedules=["weekly", "none", "hourly", "30 * * * *"])
        found = opened(board)
        assert [window.label for window in found] == ["2026-W47", "1", "2026-11-21T14Z", "2026-11-21T14:30Z"]
        assert [window.ends_at and f"{window.ends_at:%d %H:%M}" for window in found] == [
            "23 00:00", None, "21 15:00", "21 15:30",
        ]  # fmt: skip
        assert windows.current(board) == found[0]


def test_a_submission_counts_in_all_of_them() -> None:
    board = make(schedules=["daily", "none"])
    score(board, ("ada", 7))
    assert [standings.page(window, 0, 9, "ordinal").total for window in opened(board)] == [1, 1]


def test_cron_schedules_that_begin_together_have_labels_of_their_own() -> None:
    with at("2026-11-21T00:10"):
        board = make(schedules=["0 0 * * *", "0 */6 * * *"])
        assert labels(board) == ["2026-11-21T00:00Z.2*", "2026-11-21T00:00Z*"]


def test_a_board_that_was_deleted_has_no_open_windows() -> None:
    board = make()
    boards.delete("arena", None)
    with pytest.raises(ApiError, match="no leaderboard arena") as refused:
        opened(board)
    assert refused.value.status == 404


def test_whoever_comes_first_opens_the_windows_of_a_board_that_has_none() -> None:
    board = Board.objects.create(name="arena", schedules=["none", "daily", "weekly"])
    found = at_once(8, lambda: [window.pk for window in opened(board)])
    assert len(set(map(tuple, found))) == 1
    assert Window.objects.count() == 3


# --- Rolled over ----------------------------------------------------------------------------------


def test_the_next_submission_opens_the_next_window() -> None:
    with at("2026-11-21T23:59") as clock:
        board = make(schedules=["daily", "none"])
        score(board, ("ada", 7))
        clock.shift(120)
        (result,) = score(board, ("ada", 5)).results
        assert (result.score, result.rank, result.previous_rank) == (5.0, 0, None)  # type: ignore[union-attr]
        assert labels(board) == ["2026-11-22*", "1*", "2026-11-21"]
        over = windows.find(board, "previous")
        assert over
        assert over.closed_at == over.ends_at == utc("2026-11-22")


def test_a_read_opens_it_as_well() -> None:
    with at("2026-11-21T23:59") as clock:
        board = make(schedules=["daily"])
        score(board, ("ada", 7))
        clock.shift(120)
        assert standings.page(windows.current(board), 0, 9, "ordinal").rows == []
        assert labels(board) == ["2026-11-22*", "2026-11-21"]


def test_eight_at_once_open_one_window() -> None:
    with at("2026-11-21T23:59") as clock:
        board = make(schedules=["daily", "hourly", "none"])
        opened(board)
        clock.shift(120)
        found = at_once(8, lambda: [window.pk for window in opened(board)])
        assert len(set(map(tuple, found))) == 1
        assert labels(board) == ["2026-11-22T00Z*", "2026-11-22*", "1*", "2026-11-21T23Z", "2026-11-21"]


def test_submissions_at_once_over_the_end_of_a_window_are_all_in_one_or_the_other() -> None:
    with at("2026-11-21T23:59:59.9"):
        board = make(schedules=["daily", "none"])
        at_once(4, lambda: [score(board, (f"n{number}", number)) for number in range(40)])
        assert Submission.objects.filter(window__label__startswith="2026").count() == 160
        for window in Window.objects.select_related("board"):
            assert window.entries == Entry.objects.filter(window=window).count()
            assert window.seq == Submission.objects.filter(window=window, seq__isnull=False).count()


def test_after_beat_was_down_for_days_only_the_present_window_is_opened() -> None:
    with at("2026-11-01T12:00") as clock:
        board, other = make(schedules=["daily"]), make("other", schedules=["hourly"])
        clock.shift(20 * DAY)
        at_once(3, lambda: closing.roll_over(LONG))
        assert labels(board) == ["2026-11-21*", "2026-11-01"]
        assert labels(other) == ["2026-11-21T12Z*", "2026-11-01T12Z"]
        closed = Window.objects.get(label="2026-11-01")
        assert closed.closed_at == utc("2026-11-02")


def test_a_changed_time_zone_counts_from_the_next_window_on() -> None:
    with at("2026-11-21T12:00") as clock:
        board = make(schedules=["daily"])
        make(timezone="Asia/Tokyo")
        assert labels(board) == ["2026-11-21*"]
        clock.shift(12 * 3600)  # In Tokyo, it has been the 22nd since 15:00.
        closing.roll_over(LONG)
        assert labels(board) == ["2026-11-22*", "2026-11-21"]
        assert opened(board)[0].ends_at == utc("2026-11-22T15:00")


# --- Reset ----------------------------------------------------------------------------------------


def test_a_reset_closes_the_main_window_now_and_opens_the_same_period_again() -> None:
    with at("2026-11-21T12:00") as clock:
        board = make(schedules=["daily", "none"])
        score(board, ("ada", 7))
        assert closing.reset(board, None).label == "2026-11-21.2"
        assert closing.reset(board, None).label == "2026-11-21.3"
        assert closing.reset(board, None, "none").label == "2"
        assert labels(board) == ["2*", "2026-11-21.3*", "2026-11-21.2", "1", "2026-11-21"]
        first = Window.objects.get(label="2026-11-21")
        assert first.closed_at
        assert first.closed_at < timezone.now()
        clock.shift(DAY)
        closing.roll_over(LONG)
        assert opened(board)[0].label == "2026-11-22"
    assert AuditEntry.objects.filter(action="board.reset", subject="board:arena").count() == 3


def test_resets_at_once_are_one_reset() -> None:
    board = make(schedules=["none"])
    score(board, ("ada", 7))
    found = windows.current(board)
    was, windows_current = found.pk, windows.current
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "current", lambda board, schedule="": found)  # All have seen the same window.
        assert {window.label for window in at_once(4, lambda: closing.reset(board, None))} == {"2"}
    assert labels(board) == ["2*", "1"]
    assert windows_current(board).pk != was
    assert AuditEntry.objects.filter(action="board.reset").count() == 1


def test_a_schedule_that_the_board_has_not_cannot_be_reset() -> None:
    board = make(schedules=["daily"])
    with pytest.raises(ApiError, match="no such schedule"):
        closing.reset(board, None, "weekly")


def test_a_label_is_not_used_again_when_its_window_is_deleted() -> None:
    board = make(schedules=["none"], retention=0)
    closing.reset(board, None)
    closing.archive(LONG)
    closing.purge(LONG)
    assert labels(board) == ["2*"]
    assert closing.reset(board, None).label == "3"


# --- Found ----------------------------------------------------------------------------------------


def test_windows_are_found_by_what_they_are_called() -> None:
    with at("2026-11-21T12:00") as clock:
        board = make(schedules=["daily", "weekly", "0 */6 * * *"])
        clock.shift(2 * DAY)
        found = {
            "current": "2026-11-23",
            "previous": "2026-11-21",
            "daily": "2026-11-23",
            "daily.previous": "2026-11-21",
            "weekly": "2026-W48",
            "weekly.previous": "2026-W47",
            "0 */6 * * *": "2026-11-23T12:00Z",
            "0 */6 * * *.previous": "2026-11-21T12:00Z",
            "2026-W47": "2026-W47",
            "2026-11-23": "2026-11-23",
        }
        assert {text: getattr(windows.find(board, text), "label", None) for text in found} == found
        for text in ("", "monthly", "monthly.previous", "2026-11-22", "daily.current.previous", ".", "x" * 500):
            assert windows.find(board, text) is None


def test_the_windows_of_another_board_are_not_found() -> None:
    make(schedules=["daily"])
    assert windows.find(make("other"), windows.current(make(schedules=["daily"])).label) is None


# --- Archived -------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_a_closed_window_gets_final_ranks(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(closing, "SORTED_AT_ONCE", 5)
    board = make(order=order)
    score(board, *[(f"n{number}", number % 7) for number in range(23)])
    curating.hide(board, "n3", SERVICE)
    shown = [row.name for row in standings.page(windows.current(board), 0, 100, "ordinal").rows]
    closing.reset(board, None)
    closing.archive(LONG)
    window = windows.find(board, "previous")
    assert window
    assert window.archived_at
    assert final(window) == {name: rank for rank, name in enumerate(shown)} | {"n3": None}
    page = standings.page(window, 0, 100, "ordinal")
    assert ([row.name for row in page.rows], page.total) == (shown, 22)


def test_its_index_is_dropped() -> None:
    board = make()
    score(board, ("ada", 7))
    key = key_of(opened(board)[0])
    assert ranking_of(board).head(key) == 1
    closing.reset(board, None)
    closing.archive(LONG)
    with pytest.raises(Missing):
        ranking_of(board).head(key)


@pytest.mark.usefixtures("told")
def test_destinations_are_told_of_it_once() -> None:
    with at("2026-11-21T12:00") as clock:
        board = make(schedules=["daily"], retention=1)
        score(board, *[(f"n{number}", number + 0.5) for number in range(101)], ("ada", 200))
        clock.shift(DAY)
        closing.roll_over(LONG)
        at_once(4, lambda: closing.archive(LONG))
        closing.archive(LONG)
        (event,) = events()
    assert Delivery.objects.get().key == "board.arena"
    assert event["type"] == "board.closed"
    data = event["data"]
    assert data["board"] == "arena"
    assert data["window"] == {
        "label": "2026-11-21",
        "schedule": "daily",
        "starts_at": "2026-11-21T00:00:00Z",
        "ends_at": "2026-11-22T00:00:00Z",
        "closed_at": "2026-11-22T00:00:00Z",
    }
    assert data["total"] == 102
    assert len(data["top"]) == 100
    assert data["top"][:2] == [
        {"name": "ada", "score": 200, "subscore": 0, "rank": 0},
        {"name": "n100", "score": 100.5, "subscore": 0, "rank": 1},
    ]


@pytest.mark.usefixtures("told")
def test_an_empty_window_is_told_of_as_well() -> None:
    closing.reset(make(), None)
    closing.archive(LONG)
    assert [(event["data"]["total"], event["data"]["top"]) for event in events()] == [(0, [])]


@pytest.mark.usefixtures("told")
def test_archiving_goes_on_where_a_worker_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "ROWS_AT_ONCE", 3)
    board = make()
    score(board, *[(f"n{number}", number) for number in range(10)])
    closing.reset(board, None)
    window = Window.objects.get(label="1")
    write, written = closing._write_ranks, 0

    def dies(*args: Any) -> None:
        nonlocal written
        if written == 2:
            raise SystemExit
        written += 1
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(closing, "_write_ranks", dies)
        with pytest.raises(SystemExit):
            closing.archive(LONG)
    assert sorted(rank for rank in final(window).values() if rank is not None) == [0, 1, 2, 3, 4, 5]
    closing.archive(LONG)  # The lease of the dead one holds.
    assert not events()
    with at((timezone.now() + 2 * closing.LEASE).replace(tzinfo=None).isoformat()):
        closing.archive(LONG)
    assert final(window) == {f"n{number}": 9 - number for number in range(10)}
    assert len(events()) == 1


def test_who_has_lost_the_lease_writes_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "ROWS_AT_ONCE", 3)
    board = make()
    score(board, *[(f"n{number}", number) for number in range(10)])
    closing.reset(board, None)
    slow = closing._claim()
    assert slow
    Window.objects.update(leased_until=timezone.now() + 2 * closing.LEASE)
    assert closing._rank(slow, LONG**9) is False
    assert set(final(slow).values()) == {None}


def test_a_long_archive_takes_several_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "ROWS_AT_ONCE", 3)
    monkeypatch.setattr(closing, "SORTED_AT_ONCE", 6)
    board = make()
    score(board, *[(f"n{number}", number) for number in range(10)])
    closing.reset(board, None)
    window, runs = Window.objects.get(label="1"), 0
    monkeypatch.setattr(closing, "time", SimpleNamespace(monotonic=iter(range(10**6)).__next__))
    while window.archived_at is None:
        closing.archive(3.5)
        window.refresh_from_db()
        assert window.leased_until is None
        runs += 1
    assert runs > 1
    assert final(window) == {f"n{number}": 9 - number for number in range(10)}


# --- Deleted --------------------------------------------------------------------------------------


def test_windows_are_deleted_when_their_retention_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closing, "ROWS_AT_ONCE", 4)
    with at("2026-11-01T12:00") as clock:
        board, other = make(schedules=["daily"], retention=3), make("other", schedules=["daily"], retention=5)
        for _ in range(6):
            score(board, *[(f"n{number}", number) for number in range(10)])
            score(board, ("n3", 1))
            score(other, ("ada", 1))
            closing.archive(LONG)
            closing.purge(LONG)
            clock.shift(DAY)
        opened(board), opened(other)
        closing.archive(LONG)
        at_once(2, lambda: closing.purge(LONG))
        assert labels(board) == ["2026-11-07*", "2026-11-06", "2026-11-05", "2026-11-04"]
        assert labels(other)[-1] == "2026-11-02"
        assert Entry.objects.filter(window__board=board).count() == 30
        assert Submission.objects.filter(window__board=board).count() == 33


def test_what_is_not_archived_yet_is_not_deleted() -> None:
    with at("2026-11-01T12:00") as clock:
        board = make(schedules=["daily"], retention=1)
        score(board, ("ada", 1))
        clock.shift(9 * DAY)
        closing.roll_over(LONG)
        closing.purge(LONG)
        assert labels(board) == ["2026-11-10*", "2026-11-01"]


def test_a_deleted_board_goes_with_all_that_was_in_it_but_not_its_name() -> None:
    with at("2026-11-01T12:00") as clock:
        board = make()
        score(board, ("ada", 1))
        boards.delete("arena", None)
        closing.archive(LONG)
        closing.purge(LONG)
        assert Board.objects.count() == 1  # Other processes may still go by it.
        make()
        clock.shift(90)
        closing.purge(LONG)
        assert list(Board.objects.values_list("name", "deleted_at")) == [("arena", None)]
        assert not Entry.objects.exists()
        assert not Submission.objects.exists()
    assert board.pk not in Board.objects.values_list("pk", flat=True)


def test_while_redis_is_down_windows_are_archived_and_their_indexes_go_with_them(settings: LazySettings) -> None:
    board = make(retention=0)
    score(board, ("ada", 1))
    key = key_of(opened(board)[0])
    up, settings.REDIS_URL = settings.REDIS_URL, "unix:///nowhere"
    closing.reset(board, None)
    closing.archive(LONG)
    assert Window.objects.get(label="1").archived_at
    with pytest.raises(Unavailable):
        ranking_of(board).head(key)
    settings.REDIS_URL = up
    closing.purge(LONG)
    assert labels(board) == ["2*"]
    with pytest.raises(Missing):
        ranking_of(board).head(key)


@pytest.mark.usefixtures("told")
def test_beat_sees_to_all_of_it(settings: LazySettings) -> None:
    tasks = [str(job["task"]) for job in settings.CELERY_BEAT_SCHEDULE.values()]
    with at("2026-11-01T12:00") as clock:
        board = make(schedules=["daily"], entry_limit=1, retention=1)
        score(board, ("ada", 1), ("bob", 2))
        for _ in range(3):
            for task in tasks:
                if task.startswith("leaderboards."):
                    import_string(task)()
            clock.shift(DAY)
    assert labels(board) == ["2026-11-03*", "2026-11-02"]
    assert [event["data"]["total"] for event in events()] == [1, 0]
