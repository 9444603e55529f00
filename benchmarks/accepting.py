"""Stores batches through `accept()` in this process, and prints messages a second. storing.py runs it."""

import sys
import time

import django

django.setup()

from benchmarks.fanfare import text  # noqa: E402
from notifications.log import Draft, accept  # noqa: E402
from realtime import bus  # noqa: E402

BATCH = 1000


def main(topics: int, seconds: float) -> None:
    names = [f"user.{number}" for number in range(topics)]
    batch = [Draft([names[number % topics]], text().encode()) for number in range(BATCH)]
    accept(batch)  # To warm up: topics are made, connections opened.
    began, batches = time.monotonic(), 0
    while time.monotonic() < began + seconds:
        accept(batch)
        batches += 1
    print(batches * BATCH / (time.monotonic() - began))
    bus._publisher().flush(30)


main(int(sys.argv[1]), float(sys.argv[2]))
