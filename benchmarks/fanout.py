"""Fan-out: what a delivery costs the server, and how late it is, for Fanfare and those who do the same."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers
from benchmarks.fanfare import MESSAGE_BYTES, text
from benchmarks.load import Load, clients
from benchmarks.peers import Start, Target
from benchmarks.processes import NotInstalled, cpu_seconds
from benchmarks.report import Table, ratio

SOCKETS = 2000
PUBLISHES_PER_SECOND = 10  # At most; those that take longer for one are asked for the next when it is done.
BATCH = 10
SINGLES, BATCHES = 50, 10
LIMIT_SECONDS = 10.0  # For either: the slowest get through fewer.
DELIVERY_SECONDS = 30.0  # After which a message counts as lost.

FANFARE, ALONE, ORDINARY = "Fanfare", "Fanfare, requests in the same process", "Fanfare, ordinary ASGI send"
CHANNELS = "Channels group, stock consumer"
LIMIT, NCHAN = "a loop of send() in C: the limit", "Nchan (nginx, C)"

SERVERS: Mapping[str, Start] = {
    LIMIT: peers.send_loop,
    FANFARE: peers.fanfare_fast,
    NCHAN: peers.nchan,
    ALONE: peers.fanfare_alone,
    ORDINARY: peers.fanfare_ordinary,
    CHANNELS: peers.stock_channels,
    "Node ws": peers.node_ws,
    "Socket.IO": peers.socket_io,
    "NATS over WebSocket (Go)": peers.nats,
}


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU for each delivery in microseconds, delays in milliseconds; one message at a time, and in batches."""

    single: float
    p50: float
    p99: float
    batched: float
    load_cpu: float
    lost: int


def fanout(folder: Path) -> Table:
    table = Table(
        f"Fan-out: {SOCKETS:,} sockets on one topic, messages of {MESSAGE_BYTES} bytes",
        ["server", "µs/delivery", "p50 ms", "p99 ms", f"µs/delivery, batches of {BATCH}", "lost", "client's CPU"],
    )
    found = {name: _measured(folder, start) for name, start in SERVERS.items()}
    for name, it in found.items():
        if it is None:
            table.add(name, *[None] * 6)
        else:
            table.add(name, it.single, it.p50, it.p99, it.batched, it.lost, f"{it.load_cpu:.0%}")
    single = {name: it.single if it else None for name, it in found.items()}
    table.at_most("Fanfare / the limit", ratio(single[FANFARE], single[LIMIT]), 1.5, " x")
    table.at_least("stock Channels / Fanfare", ratio(single[CHANNELS], single[FANFARE]), 12.0, " x")
    table.at_most("Fanfare, against Nchan's", single[FANFARE], single[NCHAN], " µs")
    table.notes += [
        "µs: CPU time of the server's process, for everything it did meanwhile.",
        f"{PUBLISHES_PER_SECOND} publishes a second at most; each waits until the last has reached every socket.",
        "Fanfare's requests go to a second web process, as Channels' and NATS' publishers are processes of their own.",
        "Each server adds an envelope of its own: Fanfare's frame has topic, offset, id, type and time.",
    ]
    return table


def _measured(folder: Path, start: Start) -> Measured | None:
    try:
        with start(folder) as target:
            return _measure(folder, target)
    except NotInstalled:
        return None


def _measure(folder: Path, target: Target) -> Measured:
    with clients(
        folder, target.port, target.path, headers=target.headers, hello=target.hello, ready=target.ready
    ) as load:
        load.open(SOCKETS)
        rounds = Rounds(load, target)
        rounds.cost(1, PUBLISHES_PER_SECOND)  # To warm up.
        rounds.forget()
        began, cpu = time.monotonic(), load.report().cpu
        single = rounds.cost(1, SINGLES)
        report, seconds = load.report(), time.monotonic() - began
        batched = rounds.cost(BATCH, BATCHES)
        lost = rounds.expected - load.report().messages
        return Measured(single, report.p50, report.p99, batched, (report.cpu - cpu) / seconds, lost)


class Rounds:
    """Publishes and waits until all have it, again and again."""

    def __init__(self, load: Load, target: Target) -> None:
        self.expected = 0
        self._load, self._target = load, target

    def forget(self) -> None:
        self._load.clear()
        self.expected = 0

    def cost(self, batch: int, rounds: int) -> float:
        """Microseconds of the server's CPU for each delivery, with so many messages in each publish."""
        cpu, before = cpu_seconds(self._target.pid), self.expected
        deadline = time.monotonic() + LIMIT_SECONDS
        for _ in range(rounds):
            began = time.monotonic()
            self._target.publish([text() for _ in range(batch)])
            self.expected += batch * SOCKETS
            self._load.count(self.expected, DELIVERY_SECONDS)
            if time.monotonic() > deadline:
                break
            time.sleep(max(0.0, began + 1 / PUBLISHES_PER_SECOND - time.monotonic()))
        return (cpu_seconds(self._target.pid) - cpu) / (self.expected - before) * 1e6
