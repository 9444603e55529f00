"""The rankings that boards name: each as RANKINGS says, one object for the process."""

from functools import cache

from django.conf import settings
from django.utils.module_loading import import_string

from leaderboards.models import Board, Window
from leaderboards.ranking import Ranking, WindowKey


def ranking_of(board: Board) -> Ranking:
    return _ranking(settings.RANKINGS[board.ranking])


def key_of(window: Window) -> WindowKey:
    """Asks for `window.board`, too."""
    return WindowKey(window.pk, window.epoch, window.board.order == Board.Order.DESC, window.archived_at is not None)


@cache
def _ranking(path: str) -> Ranking:
    ranking: Ranking = import_string(path)()
    return ranking
