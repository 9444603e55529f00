"""Connections: how fast they are let in, and what an idle one costs in memory, beside bare Uvicorn."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fanfare import ORDINARY_SEND, fanfare, uvicorn
from benchmarks.load import clients
from benchmarks.peers import Target
from benchmarks.processes import SERVER_CORE, cpu_seconds, free_port, listens, memory, running, wait_until
from benchmarks.report import Table, median, ratio

WARM, IDLE = 200, 3000
REPEATS = 3


@dataclass(frozen=True, slots=True)
class Measured:
    per_second: float
    cpu: float  # Milliseconds of the server's for each connection.
    rss: float  # KB for each idle connection.
    pss: float


def connecting(folder: Path) -> Table:
    table = Table(
        f"Connections: {IDLE:,} WebSockets that come as fast as they can, and then are idle",
        ["server", "connects/s", "CPU ms/connect", "RSS KB/connection", "PSS KB/connection"],
    )
    tries = [(_measure(folder, _fanfare), _measure(folder, _bare)) for _ in range(REPEATS)]
    ours, bare = (_middle([pair[index] for pair in tries]) for index in (0, 1))
    for name, it in (("Fanfare: token, subscription, position", ours), ("bare Uvicorn: accepts and waits", bare)):
        table.add(name, it.per_second, it.cpu, it.rss, it.pss)
    table.at_least("connects/s, Fanfare / bare Uvicorn", ratio(ours.per_second, bare.per_second), 0.5, " x")
    table.at_most("memory of an idle connection, beyond bare Uvicorn's", ours.pss - bare.pss, 8, " KB")
    table.notes.append(f"Medians of {REPEATS} fresh servers each, in turn. HANDSHAKES_PER_SECOND is raised.")
    return table


def _measure(folder: Path, start: Callable[[Path], AbstractContextManager[Target]]) -> Measured:
    with (
        start(folder) as target,
        clients(folder, target.port, target.path, headers=target.headers, ready=target.ready) as load,
    ):
        load.open(WARM)
        cpu, (rss, pss) = cpu_seconds(target.pid), memory(target.pid)
        seconds = load.open(IDLE).seconds
        used = cpu_seconds(target.pid) - cpu
        load.count(1, 1.0)  # Let it settle.
        rss_then, pss_then = memory(target.pid)
        size = 1024 * IDLE
        return Measured(IDLE / seconds, used / IDLE * 1000, (rss_then - rss) / size, (pss_then - pss) / size)


@contextmanager
def _fanfare(folder: Path) -> Iterator[Target]:
    with fanfare(folder) as server:
        path, ready = "/ws/?topics=topic.idle", '"event":"welcome"'
        yield Target(server.port, server.pid, print, path=path, headers=server.user_headers, ready=ready)


@contextmanager
def _bare(folder: Path) -> Iterator[Target]:
    port = free_port()
    command = uvicorn("benchmarks.peers.bare:application", port, ORDINARY_SEND)
    with running(command, folder, core=SERVER_CORE) as process:
        wait_until(lambda: listens(port), process)
        yield Target(port, process.pid, print)


def _middle(tries: list[Measured]) -> Measured:
    return Measured(*(median([getattr(one, name) for one in tries]) for name in Measured.__slots__))
