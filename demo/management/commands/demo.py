"""`manage.py demo leaderboard`: makes the board on the demo page move."""

import time
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from demo import board

LINE_SECONDS = 0.2


class Command(BaseCommand):
    help = "Plays on the demo's leaderboard for a while, for whoever looks at /demo/. Ctrl-C ends it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("what", choices=["leaderboard"])
        parser.add_argument("--seconds", type=float, default=60, help="for how long (60)")
        parser.add_argument("--rate", type=float, default=200, help="scores a second (200)")

    def handle(self, *_args: Any, seconds: float, rate: float, **_options: Any) -> None:
        began, scores = time.monotonic(), 0
        shown = 0.0
        try:
            for scores in board.play(seconds, rate):
                passed = time.monotonic() - began
                if self.stdout.isatty() and passed - shown >= LINE_SECONDS:
                    shown = passed
                    line = f"\r{min(passed, seconds):4.0f} of {seconds:.0f} s  {scores:,} scores"
                    self.stdout.write(line, ending="")
                    self.stdout.flush()
        except KeyboardInterrupt:
            pass
        passed = time.monotonic() - began
        before = "\r" if shown else ""
        self.stdout.write(f"{before}{scores:,} scores in {passed:.0f} s on the board {board.NAME}.")
