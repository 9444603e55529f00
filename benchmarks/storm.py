"""A reconnect storm: thousands are dropped at once and come back with their positions, while messages go on."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.fanfare import Publisher, Server, fanfare, text
from benchmarks.load import clients
from benchmarks.processes import cpu_seconds
from benchmarks.report import Table

SOCKETS = 5000
AT_ONCE = 1000  # Handshakes under way at the same time: below the server's backlog.
MESSAGES_PER_SECOND = 20
AWAY_SECONDS = 2.0
ARRIVAL_SECONDS = 60.0


def storm(folder: Path) -> Table:
    table = Table(
        f"A reconnect storm: {SOCKETS:,} sockets lost at once, {MESSAGES_PER_SECOND} messages/s go on",
        ["what", "value"],
    )
    with fanfare(folder, application="benchmarks.counted:application") as server:
        hello = '{"action":"subscribe","topic":"topic.storm"@since}'
        with clients(
            folder,
            server.port,
            "/ws/?topics=",
            headers=server.user_headers,
            hello=hello,
            ready='"event":"subscribed"',
            at_once=AT_ONCE,
        ) as load:
            load.open(SOCKETS)
            publish = server.publisher("storm")
            publish([text()])
            load.count(SOCKETS, ARRIVAL_SECONDS)
            load.clear()
            with _messages(publish) as published:
                time.sleep(1)
                load.drop()
                time.sleep(AWAY_SECONDS)
                reads, cpu, before = _reads(server), cpu_seconds(server.pid), len(published)
                began = time.monotonic()
                back = load.back()
                cpu = cpu_seconds(server.pid) - cpu
                reads, meanwhile = _reads(server) - reads, len(published) - before
            load.count(SOCKETS * len(published), ARRIVAL_SECONDS)
            caught_up, report = time.monotonic() - began, load.report()
    lost = SOCKETS * len(published) - report.messages
    table.add("all are connected and subscribed again, seconds", back.seconds)
    table.add("and have every message, seconds", caught_up)
    table.add("came back a second", SOCKETS / back.seconds)
    table.add("server's CPU meanwhile, ms for each socket", cpu / SOCKETS * 1000)
    table.add("reads of the log meanwhile", reads)
    table.add("messages that the API took meanwhile, a second", meanwhile / back.seconds)
    table.add("messages, in all", len(published))
    table.add("sockets refused", back.failed)
    table.at_most("lost", lost + report.gaps, 0)
    table.at_most("came twice", report.repeats, 0)
    table.notes.append("All at once, without the random delay of real clients; HANDSHAKES_PER_SECOND is raised.")
    return table


@contextmanager
def _messages(publish: Publisher) -> Iterator[list[int]]:
    """Publishes steadily in the background -> a list that grows with each message."""
    published: list[int] = []
    over = threading.Event()

    def run() -> None:
        while not over.wait(1 / MESSAGES_PER_SECOND):
            publish([text()])
            published.append(1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield published
    finally:
        over.set()
        thread.join()


def _reads(server: Server) -> int:
    return int(server.get("/bench/reads"))
