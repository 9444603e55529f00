"""The dispatcher beside loops of boto3 that send the same to as many queues, to a server that answers at once."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.fanfare import environment, prepare
from benchmarks.processes import CLIENT_CORE, ROOT, SERVER_CORE, free_port, listens, running, valkey, wait_until
from benchmarks.report import Table, ratio
from benchmarks.storing import postgres

SESSIONS = 3000
OF_BOTO3 = 0.7
OF_THE_SEED = 10.0  # "A few thousand" calls in 300 seconds.

FIGURES = {
    "boto3": "boto3, one queue after the other, messages/s",
    "threads": "boto3, as many threads as the dispatcher has, messages/s",
    "broadcast": "a message for everyone, sends/s",
    "users": "a message for each user, sends/s",
    "sealing": "opening a key and sealing a message, microseconds",
}


def dispatch(folder: Path) -> Table:
    title = f"Dispatching messages of 200 bytes to {SESSIONS:,} queues, answered at once by a stub on the other core"
    table = Table(title, ["what", "SQLite", "PostgreSQL"])
    with postgres(folder) as address:
        sqlite = _measure(folder, {})
        other = _measure(folder, {"DATABASE_URL": address}) if address else {}
    for key, name in FIGURES.items():
        table.add(name, sqlite[key], other.get(key))
    for name, found in (("SQLite", sqlite), ("PostgreSQL", other)):
        for way in ("boto3", "threads"):
            table.at_least(f"broadcast by {way}: {name}", ratio(found.get("broadcast"), found.get(way)), OF_BOTO3)
        table.at_least(f"broadcast, sends/s: {name}", found.get("broadcast"), OF_THE_SEED)
    table.notes.append("One worker's process without Celery. The loops neither encrypt nor keep books.")
    return table


def _measure(folder: Path, env: Mapping[str, str]) -> dict[str, float]:
    port = free_port()
    with valkey(folder) as redis_url:
        settings = {
            **environment(folder / f"home-{time.monotonic_ns()}", redis_url),
            **env,
            "SESSION_ROLE_ARN": "arn:aws:iam::123456789012:role/bench",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
        }
        prepare(settings)
        stub = [sys.executable, "-m", "benchmarks.aws_stub", str(port)]
        with running(stub, folder, core=CLIENT_CORE) as process:
            wait_until(lambda: listens(port), process)
            words = [sys.executable, "-m", "benchmarks.dispatching", str(SESSIONS)]
            done = subprocess.run(
                ["taskset", "-c", str(SERVER_CORE), *words],
                cwd=ROOT,
                env={**os.environ, **settings},
                check=True,
                stdout=subprocess.PIPE,
            )
    return dict(json.loads(done.stdout))
