"""Start-up checks: boards that the rankings cannot serve."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.db import DatabaseError, transaction

from leaderboards.models import Board
from leaderboards.rankings import ranking_of


@register(Tags.database)
def check_boards(databases: Sequence[str] | None = None, **_options: Any) -> list[CheckMessage]:
    if not databases:
        return []
    try:
        with transaction.atomic():
            found = list(
                Board.objects.exclude(ranking__in=("redis", "database")).filter(deleted_at=None).order_by("name")
            )
    except DatabaseError:  # It is not migrated yet: then there are no boards.
        return []
    return [
        Error(f"The board {board.name} cannot have the ranking {board.ranking}: {mistake}.", id="leaderboards.E001")
        for board in found
        if (mistake := _mistake(board))
    ]


def _mistake(board: Board) -> str:
    if board.ranking not in settings.RANKINGS:
        return f"RANKINGS has {', '.join(settings.RANKINGS)}"
    return ranking_of(board).refuses(board.entry_limit)
