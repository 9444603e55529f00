"""`manage.py leaderboards`: looks whether indexes are as the record says, and makes them anew."""

import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from leaderboards.models import Window
from leaderboards.ranking import Missing, Ranking, Told, Unavailable, WindowKey
from leaderboards.rankings import key_of, ranking_of
from leaderboards.verifying import verify

BAR = 40


class Command(BaseCommand):
    help = "Compares the indexes of open windows with the database (verify), or makes them anew from it (rebuild)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["verify", "rebuild"])
        parser.add_argument("board", nargs="?", help="only this board")
        parser.add_argument("--window", help="only the window with this label")

    def handle(self, *_args: Any, action: str, board: str | None, window: str | None, **_options: Any) -> None:
        windows = Window.objects.filter(board__deleted_at=None, archived_at=None).select_related("board")
        if board is not None:
            windows = windows.filter(board__name=board)
        if window is not None:
            windows = windows.filter(label=window)
        found = [one for one in windows.order_by("board__name", "pk") if ranking_of(one.board).indexed]
        if not found and (board is not None or window is not None):
            raise CommandError("There is no such window with an index. Archived windows have none.")
        wrong = sum(not self.is_done(action, one) for one in found)
        if wrong:
            raise CommandError(f"{wrong} of {len(found)} windows: see above.")

    def is_done(self, action: str, window: Window) -> bool:
        ranking, key = ranking_of(window.board), key_of(window)
        try:
            with progress(str(window), window.entries) as told:
                faults = carry_out(action, ranking, key, told)
        except (Unavailable, Missing) as error:
            faults = [str(error)]
        self.stdout.write(f"{window}: {' '.join(faults) if faults else f'{action} done, {window.entries} entries.'}")
        return not faults


def carry_out(action: str, ranking: Ranking, key: WindowKey, told: Told) -> list[str]:
    if action == "verify":
        return verify(ranking, key, told)
    ranking.rebuild(key, told)
    return []


@contextmanager
def progress(title: str, total: int) -> Iterator[Told]:
    """A bar on a terminal, and nothing elsewhere."""
    shown = sys.stderr.isatty()

    def show(done: int) -> None:
        share = min(done / total, 1.0) if total else 1.0
        if shown:
            sys.stderr.write(f"\r{title} [{'#' * int(share * BAR):{BAR}}] {share:.0%}")
            sys.stderr.flush()

    yield show
    if shown:
        sys.stderr.write("\r\x1b[K")
