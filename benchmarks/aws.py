"""The adapters for AWS beside loops of boto3 that send the same, to a server that answers at once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.fanfare import environment
from benchmarks.processes import CLIENT_CORE, ROOT, SERVER_CORE, free_port, listens, running, wait_until
from benchmarks.report import Table, ratio

EVENTS = 3000
KINDS = ("sqs", "sns", "eventbridge", "kinesis")
OF_BOTO3 = 0.7


def aws(folder: Path) -> Table:
    table = Table("Events of 200 bytes to AWS, answered at once by a stub on the other core", ["events/s", *KINDS])
    found = _measure(folder)
    for way, name in (
        ("boto3", "boto3, one batch after the other"),
        ("threads", "boto3, four at once"),
        ("adapter", "the adapter, four at once"),
    ):
        table.add(name, *(found[f"{kind} {way}"] for kind in KINDS))
    for kind in KINDS:
        table.at_least(
            f"{kind} by boto3, four at once", ratio(found[f"{kind} adapter"], found[f"{kind} threads"]), OF_BOTO3
        )
        table.at_least(f"{kind} by boto3 alone", ratio(found[f"{kind} adapter"], found[f"{kind} boto3"]), OF_BOTO3)
    table.notes.append("The same entries in calls of the same size; each event has a key of its own.")
    return table


def _measure(folder: Path) -> dict[str, float]:
    port = free_port()
    settings = {
        **environment(folder / f"home-{time.monotonic_ns()}", "redis://127.0.0.1:9"),
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
    }
    stub = [sys.executable, "-m", "benchmarks.aws_stub", str(port)]
    with running(stub, folder, core=CLIENT_CORE) as process:
        wait_until(lambda: listens(port), process)
        words = [sys.executable, "-m", "benchmarks.aws_publishing", str(port), str(EVENTS)]
        done = subprocess.run(
            ["taskset", "-c", str(SERVER_CORE), *words],
            cwd=ROOT,
            env={**os.environ, **settings},
            check=True,
            stdout=subprocess.PIPE,
        )
    return dict(json.loads(done.stdout))
