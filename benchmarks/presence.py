"""Presence: what it costs to let connections in and out, how fast users are settled, and what idle ones cost."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from benchmarks.fanfare import Server, environment, fanfare, prepare
from benchmarks.load import Load, clients
from benchmarks.processes import ROOT, SERVER_CORE, cpu_seconds, valkey
from benchmarks.report import Table, median

CONNECTS, WARM = 5000, 200
REPEATS = 3
IDLE = (200, 2000)
IDLE_SECONDS = 20
SETTLED = 1000
MANY_USERS = "benchmarks.many_users:application"


@dataclass(frozen=True, slots=True)
class Measured:
    """For each connection that came and went: seconds of the clock, and of the server's CPU."""

    seconds: float
    cpu: float


def presence(folder: Path) -> Table:
    table = Table(
        f"Presence: {CONNECTS:,} WebSockets of as many users come and go; {SETTLED:,} users are settled",
        ["", "connects/s", "CPU ms/connection", "Redis calls/min"],
    )
    pairs = [(_come_and_go(folder, {}), _come_and_go(folder, {"REALTIME_OBSERVER": ""})) for _ in range(REPEATS)]
    ours, without = (_middle([pair[index] for pair in pairs]) for index in (0, 1))
    for name, it in (("with presence", ours), ("without", without)):
        table.add(name, CONNECTS / it.seconds, it.cpu / CONNECTS * 1000, None)
    few, many = (_idle_calls(folder, count) for count in IDLE)
    table.add(f"{IDLE[0]:,} idle connections", None, None, few)
    table.add(f"{IDLE[1]:,} idle connections", None, None, many)
    table.at_most("CPU of a connection, with / without", ours.cpu / without.cpu, 1.2, " x")
    table.at_most("time to let all in, with / without", ours.seconds / without.seconds, 1.2, " x")
    table.at_most("Redis calls for ten times as many idle connections", many / few, 1.2, " x")
    table.at_least("users settled a second", _settled(folder), 1000, "/s")
    table.notes.append(f"Medians of {REPEATS} fresh servers each, in turn, on SQLite. HANDSHAKES_PER_SECOND is raised.")
    return table


def _come_and_go(folder: Path, env: Mapping[str, str]) -> Measured:
    with fanfare(folder, application=MANY_USERS, env=env) as server:
        with _clients(folder, server) as load:
            load.open(WARM)
            cpu = cpu_seconds(server.pid)
            seconds = load.open(CONNECTS).seconds
        _until_quiet(server.pid)
        return Measured(seconds, cpu_seconds(server.pid) - cpu)


def _until_quiet(pid: int) -> None:
    """All are gone, and all of that is told."""
    while True:
        before = cpu_seconds(pid)
        time.sleep(1.0)
        if cpu_seconds(pid) - before < 0.05:
            return


def _idle_calls(folder: Path, count: int) -> float:
    """What Redis is asked for in a minute, while so many connections are idle."""
    with (
        valkey(folder) as url,
        fanfare(folder, application=MANY_USERS, env={"REDIS_URL": url}) as server,
        _clients(folder, server) as load,
    ):
        load.open(count)
        _until_quiet(server.pid)
        with Redis.from_url(url) as redis:
            before = _calls(redis)
            time.sleep(IDLE_SECONDS)
            return (_calls(redis) - before) * 60 / IDLE_SECONDS


def _calls(redis: Redis) -> int:
    stats: dict[str, dict[str, int]] = redis.info("commandstats")
    return sum(one["calls"] for name, one in stats.items() if name != "cmdstat_info")


def _settled(folder: Path) -> float:
    """Users a second who go ONLINE and OFFLINE, in a process that does nothing else."""
    with valkey(folder) as url:
        settings = environment(folder / f"home-{time.monotonic_ns()}", url)
        prepare(settings)
        command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "benchmarks.settling", str(SETTLED)]
        env = {**os.environ, **settings}
        done = subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    return float(done.stdout)


def _clients(folder: Path, server: Server) -> AbstractContextManager[Load]:
    return clients(folder, server.port, "/ws/?topics=all", ready='"event":"welcome"')


def _middle(tries: Sequence[Measured]) -> Measured:
    return Measured(median([one.seconds for one in tries]), median([one.cpu for one in tries]))
