"""Fills a board of so many entries and uses it in this process, beside raw redis-py; prints figures as JSON.

leaderboards.py runs it: `python -m benchmarks.ranking ENTRIES`, and `python -m benchmarks.ranking RATE SECONDS` for
submissions at a steady rate to a board that others watch.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from redis import Redis  # noqa: E402

from leaderboards import indexing, windows  # noqa: E402
from leaderboards.bulk import chunks, insert  # noqa: E402
from leaderboards.models import Board, Entry, Owner, Window  # noqa: E402
from leaderboards.rankings import key_of, ranking_of  # noqa: E402
from leaderboards.submitting import Score, submit  # noqa: E402

BATCH = 10_000
SECONDS = 3.0
PAGE = 20
PIPELINED = 100
COUNTED = 7  # Of what takes long, the median of so many.
MICROSECOND = 1e-6

RAW = "bench:raw"


def main(entries: int) -> None:
    rng = random.Random(20260101)
    board = Board.objects.create(name="bench", operator="set", schedules=["none"])
    with transaction.atomic():
        (window,) = windows.lock_open(board)
    redis = Redis.from_url(settings.REDIS_URL)
    before, size = redis.info("memory")["used_memory"], _database_bytes()
    _fill(window, entries, rng)
    window = Window.objects.select_related("board").get(pk=window.pk)
    ranking, key = ranking_of(board), key_of(window)
    began = time.perf_counter()
    ranking.rebuild(key)
    figures = {
        "rebuild": time.perf_counter() - began,
        "index bytes": (redis.info("memory")["used_memory"] - before) / entries,
        "database bytes": (_database_bytes() - size) / entries,
    }
    for some in chunks(range(entries), 1000):
        redis.zadd(RAW, {_name(number): rng.randrange(10**9) for number in some})

    def name() -> str:
        return _name(rng.randrange(entries))

    def pipeline(work: Callable[[Redis], object]) -> None:
        with redis.pipeline(transaction=False) as batch:
            for _ in range(PIPELINED):
                work(batch)
            batch.execute()

    def page() -> None:
        start = rng.randrange(max(1, entries - PAGE))
        indexing.ask(window, lambda ranking, key: ranking.page(key, start, start + PAGE))

    def batch() -> None:
        submit(board, [Score(name(), rng.randrange(10**9)) for _ in range(BATCH)], "service:bench")

    figures |= {
        "standing": _rate(lambda: indexing.ask(window, lambda ranking, key: ranking.standings(key, [name()]))),
        "raw rank": _rate(lambda: redis.zrevrank(RAW, name())),
        "raw rank, pipelined": PIPELINED * _rate(lambda: pipeline(lambda redis: redis.zrevrank(RAW, name()))),
        "page": _rate(page),
        "raw page": _rate(lambda: redis.zrevrange(RAW, start := rng.randrange(entries), start + PAGE - 1, True)),
        "around": _rate(lambda: indexing.ask(window, lambda ranking, key: ranking.around(key, name(), PAGE))),
        "competition": _rate(
            lambda: indexing.ask(window, lambda ranking, key: ranking.standings(key, [name()], "competition"))
        ),
        "submit, single": _rate(lambda: submit(board, [Score(name(), rng.randrange(10**9))], "service:bench")),
        "submit": BATCH * _rate(batch),
        "raw add": _rate(lambda: redis.zadd(RAW, {name(): rng.randrange(10**9)})),
        "raw add, pipelined": PIPELINED
        * _rate(lambda: pipeline(lambda redis: redis.zadd(RAW, {name(): rng.randrange(10**9)}))),
        "count": _count(window, rng),
    }
    print(json.dumps(figures))


def _fill(window: Window, entries: int, rng: random.Random) -> None:
    """As if all had been submitted, but without the record of it."""
    for some in chunks(range(entries), BATCH):
        with transaction.atomic():
            insert(Owner, ["name"], [[_name(number)] for number in some])
            numbers = dict(Owner.objects.filter(name__in=[_name(n) for n in some]).values_list("name", "pk"))
            rows = [
                (window.pk, numbers[_name(number)], float(rng.randrange(10**9)), 0.0, number + 1, False, "")
                for number in some
            ]
            insert(Entry, ["window_id", "owner_id", "score", "subscore", "place", "hidden", "metadata"], rows)
    Window.objects.filter(pk=window.pk).update(seq=entries, entries=entries)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def _name(number: int) -> str:
    return f"player-{number:07}"


def _rate(work: Callable[[], object]) -> float:
    """How often a second."""
    work()
    began, done = time.perf_counter(), 0
    while time.perf_counter() < began + SECONDS:
        work()
        done += 1
    return done / (time.perf_counter() - began)


def _count(window: Window, rng: random.Random) -> float:
    """A rank as databases without an index of ranks find it, how often a second."""
    taken = []
    for _ in range(COUNTED):
        began = time.perf_counter()
        Entry.objects.filter(window=window, score__gt=rng.randrange(10**9)).count()
        taken.append(time.perf_counter() - began)
    return 1 / sorted(taken)[COUNTED // 2]


def _database_bytes() -> int:
    if connection.vendor == "sqlite":
        name = Path(connection.settings_dict["NAME"])
        return sum(path.stat().st_size for path in (name, name.with_name(name.name + "-wal")) if path.exists())
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        return int(cursor.fetchone()[0])


# --- For those who watch --------------------------------------------------------------------------


def drive(rate: int, seconds: int) -> None:
    """Submits at a steady rate, 20 batches a second; each score is the time in microseconds, so each leads at once."""
    board = Board.objects.get(name="watched")
    names, batch = [_name(number) for number in range(10_000)], rate // 20
    began = time.monotonic()
    for number in range(20 * seconds):
        time.sleep(max(0.0, began + number / 20 - time.monotonic()))
        some: Sequence[str] = [names[(number * batch + place) % len(names)] for place in range(batch)]
        now = time.time_ns() // 1000
        submit(board, [Score(name, now) for name in some], "service:bench")
    print(json.dumps({"rate": 20 * seconds * batch / (time.monotonic() - began)}))


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    main(*numbers) if len(numbers) == 1 else drive(*numbers)
