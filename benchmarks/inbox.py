"""The inbox of a user with very many messages: a page with its counts, and receipts a second."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.fanfare import environment, prepare
from benchmarks.processes import ROOT, SERVER_CORE, valkey
from benchmarks.report import Table
from benchmarks.storing import postgres

MESSAGES = 100_000
MILLISECONDS = 20
RECEIPTS = 2000

STATES = {
    "unread": "all unread",
    "mixed": "every second one read by a receipt",
    "newest": "the newest half read by receipts",
    "marked": "all read by a marker",
}


def inbox(folder: Path) -> Table:
    table = Table(
        f"Inbox of a user with {MESSAGES:,} messages: the first page and the counts, milliseconds",
        ["state", "SQLite", "PostgreSQL"],
    )
    with postgres(folder) as address:
        sqlite = _measure(folder, {})
        other = _measure(folder, {"DATABASE_URL": address}) if address else {}
    for state, name in STATES.items():
        table.add(name, sqlite[state], other.get(state))
        table.at_most(f"{name}: SQLite", sqlite[state], MILLISECONDS, " ms")
        table.at_most(f"{name}: PostgreSQL", other.get(state), MILLISECONDS, " ms")
    for state, name in STATES.items():
        table.add(f"{name}; only what is unread", sqlite[f"{state}, unread"], other.get(f"{state}, unread"))
    table.add("single receipts a second, 1,000 in a request", sqlite["receipts"], other.get("receipts"))
    table.at_least("receipts: SQLite", sqlite["receipts"], RECEIPTS, "/s")
    table.at_least("receipts: PostgreSQL", other.get("receipts"), RECEIPTS, "/s")
    table.notes.append("In the process, without HTTP; the median of 21. A receipt is stored, counted and published.")
    return table


def _measure(folder: Path, env: Mapping[str, str]) -> dict[str, float]:
    with valkey(folder) as redis_url:
        settings = {**environment(folder / f"home-{time.monotonic_ns()}", redis_url), **env}
        prepare(settings)
        done = subprocess.run(
            ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.reading", str(MESSAGES)],
            cwd=ROOT,
            env={**os.environ, **settings},
            check=True,
            stdout=subprocess.PIPE,
        )
        return dict(json.loads(done.stdout))
