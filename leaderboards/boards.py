"""Boards and their settings: found, made, changed, deleted; each change has its entry in the audit."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.utils import timezone

from accounts import audit
from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.throttles import parse
from leaderboards import closing, schedules, windows
from leaderboards.models import Board, Entry, Window, new_epoch
from leaderboards.rankings import ranking_of
from leaderboards.scoring import SCORE_MAX

FOUND_SECONDS = 1.0  # So long a process goes by what it has read of a board.
FOUND_MAX = 10_000
SCHEDULES_MAX = 4
METADATA_MAX_BYTES = 4 * 1024

SETTINGS = (
    "order", "operator", "schedules", "timezone", "retention", "entry_limit", "min_score", "max_score", "max_step",
    "rate", "submit", "read", "ranking", "metadata",
)  # fmt: skip
DEFAULTS: Mapping[str, Any] = {"schedules": [schedules.NONE]}


def find(name: str) -> Board | None:
    """The board of this name, as it is or was at most FOUND_SECONDS ago. Its row is shared: it is only to be read."""
    return _found.get(name)


def for_submission(name: str, may_create: bool, actor: Principal | None = None) -> Board:
    """The board that a score is for; the first one makes it, where the caller and LEADERBOARD_AUTO_CREATE allow that.

    Raises ApiError 404.
    """
    if board := find(name):
        return board
    if not (may_create and settings.LEADERBOARD_AUTO_CREATE):
        raise windows.unknown_board(name)
    with transaction.atomic():
        board, _created = _create(name, {}, actor)
    return board


def put(name: str, changes: Mapping[str, Any], actor: Principal | None) -> tuple[Board, bool]:
    """Makes a board, or changes what is given of it -> the board, and whether it is new.

    `changes` are some of SETTINGS, of the right types. The windows of removed schedules are closed, those of new ones
    opened; a new time zone counts from the next windows on. Raises ApiError 422.
    """
    with transaction.atomic():
        board, created = _create(name, changes, actor)
        if not created:
            board = _change(board, changes, actor)
    return board, created


def delete(name: str, actor: Principal | None) -> None:
    """Deletes a board; what was in it goes in the background. Raises ApiError 404."""
    with transaction.atomic():
        board = Board.objects.filter(name=name, deleted_at=None).first()
        if board is None:
            raise windows.unknown_board(name)
        opened = windows.lock_open(board)
        board = opened[0].board
        now = timezone.now()
        windows.close(opened, now)
        Board.objects.filter(pk=board.pk).update(deleted_at=now)
        audit.record(actor, "board.deleted", subject(board), before=as_dict(board))
        _changed(board)
        closing.drop_after_commit(opened)


def subject(board: Board) -> str:
    """What the audit calls it."""
    return f"board:{board.name}"


def as_dict(board: Board) -> dict[str, Any]:
    """What the audit keeps."""
    return {name: getattr(board, name) for name in SETTINGS}


def _create(name: str, changes: Mapping[str, Any], actor: Principal | None) -> tuple[Board, bool]:
    """The board of this name, made if there is none."""
    values = {**DEFAULTS, **_clean(changes)}
    _check(Board(name=name, **values))
    board, created = Board.objects.get_or_create(name=name, deleted_at=None, defaults=values)
    if created:
        windows.lock_open(board)
        audit.record(actor, "board.created", subject(board), after=as_dict(board))
        _changed(board)
    return board, created


def _change(board: Board, changes: Mapping[str, Any], actor: Principal | None) -> Board:
    opened = windows.lock_open(board)
    board = opened[0].board
    before = as_dict(board)
    if changes.get("ranking", board.ranking) != board.ranking:
        closing.drop_after_commit(opened)
    for name, value in _clean(changes).items():
        setattr(board, name, value)
    after = as_dict(board)
    if after == before:
        return board
    _check(board)
    if after["order"] != before["order"] and _has_entries(board):
        text = "order: the board has entries, which are in order already: delete it, or make another one."
        raise ApiError(422, "order_fixed", text)
    board.save(update_fields=changes.keys())
    if after["order"] != before["order"]:  # What a process makes of an index by the old one is not ours.
        for window in opened:
            Window.objects.filter(pk=window.pk).update(epoch=new_epoch())
    windows.close([window for window in opened if window.schedule not in board.schedules], timezone.now())
    windows.lock_open(board)
    audit.record(actor, "board.changed", subject(board), before=before, after=after)
    _changed(board)
    return board


def _has_entries(board: Board) -> bool:
    """Also in windows that are closed: they are read in their order."""
    return Entry.objects.filter(window__in=Window.objects.filter(board=board)).exists()


def _changed(board: Board) -> None:
    transaction.on_commit(lambda: _found.forget(board.name))


# --- The rules of settings ------------------------------------------------------------------------


def _clean(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Schedules as they are stored."""
    values = dict(changes)
    if "schedules" in values:
        try:
            values["schedules"] = [schedules.validate(schedule) for schedule in values["schedules"]]
        except ValueError as error:
            raise _refused("schedule", str(error)) from None
    return values


def _check(board: Board) -> None:
    """Raises ApiError 422 for settings that do not go together."""
    different = len(set(map(str.upper, board.schedules)))
    if not 1 <= different == len(board.schedules) <= SCHEDULES_MAX:
        raise _refused("schedule", f"one, or up to {SCHEDULES_MAX} different ones")
    try:
        schedules.validate_timezone(board.timezone)
    except ValueError as error:
        raise _refused("timezone", str(error)) from None
    for name in ("min_score", "max_score", "max_step"):
        value = getattr(board, name)
        if value is not None and not abs(value) <= SCORE_MAX:
            raise _refused(name, "from -2^53 to 2^53")
    if board.min_score is not None and board.max_score is not None and board.min_score > board.max_score:
        raise _refused("min_score", "at most max_score")
    if board.max_step is not None and board.max_step < 0:
        raise _refused("max_step", "at least 0")
    try:
        parse(board.rate)
    except ImproperlyConfigured as error:
        raise _refused("rate", str(error)) from None
    if board.ranking not in settings.RANKINGS:
        raise _refused("ranking", f"one of {', '.join(settings.RANKINGS)}")
    if why_not := ranking_of(board).refuses(board.entry_limit):
        raise _refused("ranking", why_not)
    if len(msgspec.json.encode(board.metadata)) > METADATA_MAX_BYTES:
        raise _refused("metadata", f"{METADATA_MAX_BYTES} bytes of JSON at most")


def _refused(field: str, why: str) -> ApiError:
    return ApiError(422, "refused", f"{field}: {why.rstrip('.')}.", fields={field: why})


# --- What a process knows of boards ---------------------------------------------------------------


class _Found:
    """Boards as this process has read them last, the unknown ones too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read: OrderedDict[str, tuple[float, Board | None]] = OrderedDict()
        self._version = 0

    def get(self, name: str) -> Board | None:
        until, board = self._read.get(name, (0.0, None))
        if time.monotonic() < until:
            return board
        version, until = self._version, time.monotonic() + FOUND_SECONDS
        board = Board.objects.filter(name=name, deleted_at=None).first()
        with self._lock:
            if version == self._version:  # Else it may have been read before a change of ours.
                self._read[name] = until, board
                self._read.move_to_end(name)
                if len(self._read) > FOUND_MAX:
                    self._read.popitem(last=False)
        return board

    def forget(self, name: str) -> None:
        with self._lock:
            self._version += 1
            self._read.pop(name, None)

    def clear(self) -> None:
        with self._lock:
            self._version += 1
            self._read.clear()


_found = _Found()
