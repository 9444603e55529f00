"""`manage.py demo leaderboard|writethrough`: makes the demo's pages move."""

import time
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand

from demo import board, writethrough

LINE_SECONDS = 0.2


class Command(BaseCommand):
    help = "Plays for a while: on the leaderboard of /demo/, in the table of /demo/writethrough/. Ctrl-C ends it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=["leaderboard", "writethrough"])
        parser.add_argument("--seconds", type=float, default=60, help="for how long (60)")
        parser.add_argument("--rate", type=float, help="scores a second (200), or changes of the table (2)")

    def handle(self, *_args: Any, what: str, seconds: float, rate: float | None, **_options: Any) -> None:
        if what == "leaderboard":
            self._show(board.play(seconds, rate or 200), seconds, "scores", f"on the board {board.NAME}")
        else:
            self._show(writethrough.play(seconds, rate or 2), seconds, "changes", "in the table of /demo/writethrough/")

    def _show(self, play: Iterator[int], seconds: float, deeds: str, where: str) -> None:
        began, done = time.monotonic(), 0
        shown = 0.0
        try:
            for done in play:
                passed = time.monotonic() - began
                if self.stdout.isatty() and passed - shown >= LINE_SECONDS:
                    shown = passed
                    line = f"\r{min(passed, seconds):4.0f} of {seconds:.0f} s  {done:,} {deeds}"
                    self.stdout.write(line, ending="")
                    self.stdout.flush()
        except KeyboardInterrupt:
            pass
        passed = time.monotonic() - began
        before = "\r" if shown else ""
        self.stdout.write(f"{before}{done:,} {deeds} in {passed:.0f} s {where}.")
