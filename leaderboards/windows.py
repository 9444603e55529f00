"""Windows of a board: those that are open, opening the next one when one ends, and finding one by what it is called."""

import re
from collections.abc import Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone

from accounts.errors import ApiError
from leaderboards import schedules
from leaderboards.models import Board, Window

TRIES_MAX = 10  # Each fails only where somebody else has opened a window meanwhile.


def lock_open(board: Board) -> list[Window]:
    """Locks the open windows of a board in the caller's transaction, each with its `board` as it is now.

    The main one first. Those whose time is over are closed, and those that are missing are opened. Raises ApiError 404
    when the board has been deleted meanwhile.
    """
    for _ in range(TRIES_MAX):
        found = list(Window.objects.select_for_update().filter(board=board.pk, closed_at=None).order_by("pk"))
        now = timezone.now()
        # After the locks, which changes of the board take too.
        board_now = Board.objects.filter(pk=board.pk, deleted_at=None).first()
        if board_now is None:
            raise unknown_board(board.name)
        over = [window for window in found if window.ends_at and window.ends_at <= now]
        for window in over:
            close([window], window.ends_at or now)
        by_schedule = {window.schedule: window for window in found if window not in over}
        missing = [schedule for schedule in board_now.schedules if schedule not in by_schedule]
        if not missing:
            for window in by_schedule.values():
                window.board = board_now
            return [by_schedule[schedule] for schedule in board_now.schedules]
        for schedule in missing:
            _open(board_now, schedule, now)
    raise RuntimeError(f"The windows of {board.name} cannot be opened.")


def close(windows: Sequence[Window], at: datetime) -> None:
    """Closes windows that the caller has locked: from now on nothing in them changes."""
    for window in windows:
        window.closed_at = at
    Window.objects.filter(pk__in=[window.pk for window in windows]).update(closed_at=at)


def current(board: Board, schedule: str = "") -> Window:
    """The open window of a schedule, the main one's by default; if its time is over, the next one.

    Raises ApiError 404.
    """
    schedule = schedule or board.schedules[0]
    if schedule not in board.schedules:
        raise ApiError(404, "unknown_window", "The board has no such schedule.")
    window = Window.objects.filter(board=board, schedule=schedule, closed_at=None).first()
    if window is None or (window.ends_at and window.ends_at <= timezone.now()):
        with transaction.atomic():
            opened = lock_open(board)
        return next((window for window in opened if window.schedule == schedule), opened[0])
    window.board = board
    return window


def find(board: Board, text: str) -> Window | None:
    """The window of this name: a label, a schedule (its open one), `<schedule>.previous`, `current` or `previous`.

    The last two are of the main schedule. An open one whose time is over is closed first, and the next one opened.
    """
    schedule, _, which = text.rpartition(".")
    if text in ("current", "previous"):
        schedule, which = board.schedules[0], text
    elif text in board.schedules:
        schedule, which = text, "current"
    if schedule in board.schedules and which in ("current", "previous"):
        opened = current(board, schedule)
        if which == "current":
            return opened
    if which == "previous":
        found = listing(board).filter(schedule=schedule, closed_at__isnull=False)
    else:
        found = listing(board).filter(label=text)
    window = found.first()
    if window:
        window.board = board
    return window


def listing(board: Board) -> QuerySet[Window]:
    """All that are kept, the newest first."""
    return Window.objects.filter(board=board).order_by("-pk")


def unknown_board(name: str) -> ApiError:
    return ApiError(404, "unknown_board", f"There is no leaderboard {name}.")


def _open(board: Board, schedule: str, now: datetime) -> None:
    """Unless somebody else has opened it, or taken its label."""
    period = schedules.period(schedule, board.timezone, now)
    window = Window(
        board=board,
        schedule=schedule,
        label=_free_label(board, period.label),
        starts_at=period.starts_at,
        ends_at=period.ends_at,
    )
    Window.objects.bulk_create([window], ignore_conflicts=True)


def _free_label(board: Board, label: str) -> str:
    """`1`, `2`, … for windows without an end; others are called as their period is, again with `.2`, `.3`, …

    Numbers go on from the highest there is, so what retention has deleted does not free its label.
    """
    taken = Window.objects.filter(board=board, label__startswith=label).values_list("label", flat=True)
    pattern = re.compile(rf"{re.escape(label)}(?:\.(\d+))?" if label else r"(\d+)")
    numbers = [int(found[1] or 1) for name in taken if (found := pattern.fullmatch(name))]
    number = max(numbers, default=0) + 1
    if not label:
        return str(number)
    return label if number == 1 else f"{label}.{number}"
