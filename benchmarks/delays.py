"""Delays: how late messages are at a steady rate, and whether all of them come, for each way to listen."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fanfare import MESSAGE_BYTES, Server, fanfare, steadily
from benchmarks.load import Load, Report, clients
from benchmarks.processes import cpu_seconds
from benchmarks.report import Table

SECONDS = 10
PUBLISHES_PER_SECOND = 10
ARRIVAL_SECONDS = 20.0  # After the last publish; what has not come by then is lost.


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    mode: str
    clients: int
    batch: int

    @property
    def rate(self) -> int:
        return self.batch * PUBLISHES_PER_SECOND


MANY = Case("WebSocket", "ws", 200, 100)
WIDE = Case("WebSocket", "ws", 2000, 10)
LAST = Case("WebSocket", "ws", 1000, 1)
CASES = (
    MANY,
    WIDE,
    LAST,
    Case("WebSocket", "ws", 200, 1),
    Case("server-sent events", "stream", 200, 1),
    Case("long poll", "poll", 200, 1),
)


@dataclass(frozen=True, slots=True)
class Measured:
    report: Report
    lost: int
    server_cpu: float
    load_cpu: float


def delays(folder: Path) -> Table:
    table = Table(
        f"Delays: {SECONDS} s at a steady rate, messages of {MESSAGE_BYTES} bytes, {PUBLISHES_PER_SECOND} requests/s",
        ["way", "clients", "messages/s", "lost", "p50 ms", "p99 ms", "last p99 ms", "server's CPU", "client's CPU"],
    )
    with fanfare(folder) as server:
        found = {case: _measure(folder, server, case) for case in CASES}
    for case, it in found.items():
        delays = it.report.p50, it.report.p99, it.report.last_p99
        table.add(case.name, case.clients, case.rate, it.lost, *delays, f"{it.server_cpu:.0%}", f"{it.load_cpu:.0%}")
    table.at_most("lost, in all", sum(it.lost for it in found.values()), 0)
    table.at_most("p99 of 1,000 messages/s to 200", found[MANY].report.p99, 50, " ms")
    table.at_most("p99 of 100 messages/s to 2,000", found[WIDE].report.p99, 100, " ms")
    table.at_most("p99 from publish to the last of 1,000", found[LAST].report.last_p99, 40, " ms")
    table.notes.append("p50, p99: from publish to each client. Last: until the last client has it.")
    return table


def _measure(folder: Path, server: Server, case: Case) -> Measured:
    topic = f"delays-{case.mode}-{case.clients}-{case.batch}"
    with _clients(folder, server, case, topic) as load:
        load.open(case.clients)
        publish = server.publisher(topic)
        steadily(publish, case.batch, PUBLISHES_PER_SECOND, 1)  # To warm up.
        load.count(case.clients * case.rate, ARRIVAL_SECONDS)
        load.clear()
        before, server_cpu = load.report().cpu, cpu_seconds(server.pid)
        published = steadily(publish, case.batch, PUBLISHES_PER_SECOND, SECONDS)
        load.count(case.clients * published, ARRIVAL_SECONDS)
        report = load.report()
        lost = case.clients * published - report.messages + report.gaps
        used = cpu_seconds(server.pid) - server_cpu
        return Measured(report, lost, used / SECONDS, (report.cpu - before) / SECONDS)


def _clients(folder: Path, server: Server, case: Case, topic: str) -> AbstractContextManager[Load]:
    path = {"ws": "/ws/", "stream": "/api/stream", "poll": "/api/poll"}[case.mode]
    return clients(
        folder,
        server.port,
        f"{path}?topics=topic.{topic}",
        mode=case.mode,
        headers=server.user_headers,
        ready="" if case.mode == "poll" else '"event":"welcome"',
    )
