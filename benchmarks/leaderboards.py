"""Leaderboards beside redis-py, the PyPI library and SQL: submissions, standings and pages, rebuilding, watching."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.fanfare import Server, environment, fanfare, manage, prepare
from benchmarks.load import clients
from benchmarks.peers import CACHE, HERE
from benchmarks.processes import CLIENT_CORE, ROOT, valkey
from benchmarks.report import Table, ratio
from benchmarks.storing import postgres

SIZES = tuple(int(size) for size in os.environ.get("FANFARE_BENCH_ENTRIES", "10000,100000,1000000").split(","))
SUBMISSIONS = 10_000
REBUILD_SECONDS = 15
SHARE = 0.5
WATCHERS, WATCHED_RATE, WATCHED_SECONDS = 1000, 2000, 10
TICK_MS, LATE_MS = 100, 50
HTTP_SECONDS = 3.0

PEER = CACHE / "leaderboard" / "bin" / "python"

ROWS = {
    "submit": "submissions/s, 10,000 in a batch: stored and ranked",
    "submit, single": "submissions/s, one at a time: stored and ranked",
    "raw add": "  redis-py ZADD",
    "raw add, pipelined": "  redis-py ZADD, 100 in a pipeline",
    "peer add": "  PyPI leaderboard: rank_member",
    "standing": "standings/s: score, rank and total",
    "competition": "standings/s, ties=competition",
    "raw rank": "  redis-py ZREVRANK",
    "raw rank, pipelined": "  redis-py ZREVRANK, 100 in a pipeline",
    "peer rank": "  PyPI leaderboard: score_and_rank_for",
    "count": "  SQL COUNT(*)",
    "page": "pages of 20/s, from anywhere",
    "around": "pages of 20/s, around a name",
    "raw page": "  redis-py ZREVRANGE WITHSCORES",
    "peer page": "  PyPI leaderboard: members_from_rank_range",
    "peer around": "  PyPI leaderboard: around_me",
    "index bytes": "bytes for each entry, in Redis",
    "database bytes": "bytes for each entry, in the database",
    "rebuild": "seconds to make the index anew",
}


def leaderboards(folder: Path) -> Table:
    databases = ["SQLite", "PostgreSQL"]
    table = Table(
        "Leaderboards: through the service, in the process",
        ["what", *(f"{size:,}, {name}" for size in SIZES for name in databases)],
    )
    found: dict[tuple[int, str], dict[str, float]] = {}
    for size in SIZES:
        home = folder / str(size)
        home.mkdir()
        with postgres(home) as address:
            found[size, "SQLite"] = _measure(folder, size, {})
            found[size, "PostgreSQL"] = _measure(folder, size, {"DATABASE_URL": address}) if address else {}
    for name, text in ROWS.items():
        table.add(text, *(one.get(name) for one in found.values()))
    for (size, database), one in found.items():
        case = f"{size:,} entries, {database}"
        table.at_least(f"bulk submissions, {case}", one.get("submit"), SUBMISSIONS, "/s")
        for ours, raw in (("standing", "raw rank"), ("page", "raw page")):
            table.at_least(f"{ours}s by raw redis-py's, {case}", ratio(one.get(ours), one.get(raw)), SHARE)
        if size == 1_000_000:
            table.at_most(f"rebuild, {case}", one.get("rebuild"), REBUILD_SECONDS, " s")
    table.notes.append("Redis on one core, the measured process on the other, PostgreSQL beside it.")
    return table


def boards_live(folder: Path) -> Table:
    """Over HTTP, and for those who watch."""
    table = Table(
        f"A board live: {WATCHERS:,} watchers, {WATCHED_RATE:,} submissions/s in 20 batches/s",
        ["what", "value"],
    )
    with fanfare(folder, env={"RATE_SERVICE": ""}) as server:
        _make_board(server)
        table.add("submissions/s through HTTP, one in a request, one client", _requests(server))
        header = [f"Authorization: Bearer {server.key}"]
        path = "/ws/?topics=board.watched"
        with clients(
            folder, server.port, path, headers=header, ready='"event":"welcome"', mark='"score":', unit=1000
        ) as load:
            load.open(WATCHERS)
            _drive(server, 1)
            time.sleep(1)
            load.clear()
            report = _drive(server, WATCHED_SECONDS)
            time.sleep(2)
            seen = load.report()
        table.add("submissions/s", report["rate"])
        table.add("rows told to each watcher", seen.messages / WATCHERS)
        table.add("p50 ms", seen.p50)
        table.add("p99 ms", seen.p99)
        table.add("bytes/s for each watcher", seen.bytes / WATCHERS / WATCHED_SECONDS)
        table.at_most("p99 from before a submission to the frame", seen.p99, TICK_MS + LATE_MS, " ms")
    table.notes.append(
        "Each score is the time before its submission began, so the delay includes storing it; each tick moves the "
        "whole top 100, which is the most that a frame can hold."
    )
    return table


def _measure(folder: Path, entries: int, env: Mapping[str, str]) -> dict[str, float]:
    with valkey(folder) as redis_url:
        settings = {**environment(folder / f"home-{time.monotonic_ns()}", redis_url), **env}
        prepare(settings)
        figures = _run([sys.executable, "-m", "benchmarks.ranking", str(entries)], settings)
        if PEER.exists():
            url = redis_url.removeprefix("unix://")
            figures |= _run([str(PEER), str(HERE / "old_leaderboard.py"), url, str(entries)], {})
        return figures


def _run(command: list[str], env: Mapping[str, str]) -> dict[str, float]:
    done = subprocess.run(
        ["taskset", "-c", str(CLIENT_CORE), *command],
        cwd=ROOT,
        env={**os.environ, **env},
        check=True,
        stdout=subprocess.PIPE,
    )
    return dict(json.loads(done.stdout))


def _settings(server: Server) -> dict[str, str]:
    return {**environment(server.home, server.redis_url), "RATE_SERVICE": ""}


def _make_board(server: Server) -> None:
    board = "name='watched', operator='set', schedules=['none']"
    code = f"from leaderboards.models import Board; Board.objects.create({board})"
    manage(_settings(server), "shell", "-c", code)


def _drive(server: Server, seconds: int) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.ranking", str(WATCHED_RATE), str(seconds)]
    return _run(words, _settings(server))


def _requests(server: Server) -> float:
    post = server.poster("/api/leaderboards/single/somebody")
    began, done = time.monotonic(), 0
    while time.monotonic() < began + HTTP_SECONDS:
        post(f'{{"score": {done}}}')
        done += 1
    return done / (time.monotonic() - began)
