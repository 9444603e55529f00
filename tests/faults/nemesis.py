"""What goes wrong: actions that break something and undo it, and the faults of the matrix, made of them."""

import asyncio
import random
import resource
import signal
import socket
import sqlite3
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

import psycopg

from tests.faults.checker import Limits, Run, Violation
from tests.faults.ledger import Closed, Reply
from tests.faults.listeners import SocketListener
from tests.faults.load import Load, eventually, sample_of
from tests.faults.proxy import Proxy
from tests.faults.wire import request
from tests.servers import Stack, Web

CRASHES = 3


@dataclass(slots=True)
class Ground:
    """Where a fault happens. `notes`: what an action saw that it should not have."""

    stack: Stack
    load: Load
    proxies: list[Proxy]
    chance: random.Random
    notes: list[Violation] = field(default_factory=list)

    def must(self, holds: bool, invariant: str, what: str, example: object) -> None:
        if not holds:
            self.notes.append(Violation(invariant, what, str(example)))

    async def restart(self, web: Web) -> None:
        """Starts a process that has gone, on its port."""
        await asyncio.to_thread(web.process.wait, 20)
        web.start()
        await asyncio.to_thread(web.wait_until_ready)

    async def metric(self, web: Web, start: str) -> float:
        """The sum of the metrics whose lines start so."""
        text = (await request(web.port, "GET", "/metrics", seconds=10)).body.decode()
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(start))


Action = Callable[[Ground], Awaitable[None]]

# --- Processes ------------------------------------------------------------------------------------


async def kill_web(ground: Ground) -> None:
    """F1: kill -9 of one of the web processes."""
    web = ground.chance.choice(ground.stack.web)
    await asyncio.to_thread(web.kill)
    await asyncio.sleep(0.5)
    await ground.restart(web)


async def crash_before_publish(ground: Ground) -> None:
    """F2: web processes and the worker die when they have committed and not yet published."""
    for _ in range(CRASHES):
        (ground.stack.folder / "crash-web").touch()
        await eventually(lambda: any(web.process.poll() is not None for web in ground.stack.web), 20)
        for web in ground.stack.web:
            if web.process.poll() is not None:
                await ground.restart(web)
        (ground.stack.folder / "crash-worker").touch()
        await asyncio.sleep(1)
    died = await eventually(lambda: not (ground.stack.folder / "crash-worker").exists(), 20)
    ground.must(died, "I7", "the worker does not publish", "no crash within 20 s")


async def stop_event_loop(ground: Ground) -> None:
    """F24: a process that does nothing for 3 s."""
    web = ground.chance.choice(ground.stack.web)
    web.process.send_signal(signal.SIGSTOP)
    await asyncio.sleep(3)
    web.process.send_signal(signal.SIGCONT)


async def rolling_restart(ground: Ground) -> None:
    """F25: SIGTERM to one process after the other."""
    for web in ground.stack.web:
        await asyncio.to_thread(web.stop)
        await ground.restart(web)


async def backlog(ground: Ground) -> None:
    """F23: thousands of scheduled messages are due when the worker comes back; then it is killed once more."""
    stack, load = ground.stack, ground.load
    worker = next(process for process in stack.processes if "worker" in process.args)  # type: ignore[operator]
    worker.kill()
    due = datetime.fromtimestamp(time.time() + 1, UTC).isoformat()
    for _ in range(5):
        await load.send_batch(1000, send_at=due)
    await asyncio.sleep(4)
    second = stack.start_worker()
    ground.must(await eventually(lambda: load.scheduled() < 4000, 20), "I7", "the worker does not publish", "20 s")
    second.kill()
    stack.start_worker()


async def exhaust_files(ground: Ground) -> None:
    """F29: a process may open 10 more files, and 100 clients come."""
    web = ground.stack.web[-1]
    pid = web.process.pid
    sample = sample_of(pid)
    assert sample
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    storm: list[asyncio.StreamWriter] = []
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (sample.files + 10, hard))
    try:
        for _ in range(100):
            with suppress(OSError, TimeoutError):
                storm.append((await asyncio.wait_for(asyncio.open_connection("127.0.0.1", web.port), 1))[1])
        began, used = time.monotonic(), _cpu_seconds(pid)
        await asyncio.sleep(3)
        load = (_cpu_seconds(pid) - used) / (time.monotonic() - began)
        ground.must(load < 0.8, "I6", "spins without files", f"{load:.0%} of a core")
    finally:
        for writer in storm:
            writer.transport.abort()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))


# --- Redis and the database -----------------------------------------------------------------------


async def stop_redis(ground: Ground) -> None:
    """F4: a Redis that accepts connections and does not answer."""
    with ground.stack.valkey.stopped():
        await asyncio.sleep(5)


async def empty_redis(ground: Ground) -> None:
    """F5: Redis dies, and comes back with nothing in it."""
    await asyncio.to_thread(ground.stack.valkey.kill)
    await asyncio.sleep(2)
    await asyncio.to_thread(ground.stack.valkey.start)


async def lock_database(ground: Ground) -> None:
    """F9: another program writes for 10 s. On PostgreSQL it locks a table for 8 s, then all sessions are ended."""
    if "DATABASE_URL" not in ground.stack.environment:
        connection = sqlite3.connect(ground.stack.home / "fanfare.sqlite3", timeout=20, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        await asyncio.sleep(10)
        connection.execute("ROLLBACK")
        connection.close()
        return
    with psycopg.connect(ground.stack.environment["DATABASE_URL"]) as session:
        session.execute("LOCK TABLE notifications_topic IN ACCESS EXCLUSIVE MODE")
        await asyncio.sleep(8)
    with psycopg.connect(ground.stack.environment["DATABASE_URL"]) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


# --- The network and its clients ------------------------------------------------------------------


async def slow_readers(ground: Ground) -> None:
    """F10: one client never reads and keeps sending, another reads 1 kB/s; both are sent 1 MB/s."""
    web = ground.stack.web[0]
    name = '4408"'
    was = await ground.metric(web, f'fanfare_closes_total{{code="{name}')
    with _reader(ground, web) as mute, _reader(ground, web) as slow:
        for _second in range(15):
            await asyncio.gather(*(ground.load.send("topic.big", pad=50_000) for _ in range(20)))
            with suppress(OSError):
                mute.send(_masked(b'{"action": "ping"}'))
            with suppress(OSError):
                slow.recv(1000)
            await asyncio.sleep(0.5)
        closed = await ground.metric(web, f'fanfare_closes_total{{code="{name}') - was
        ground.must(closed == 2, "I6", "slow readers that were not sent away", f"{closed} of 2 closed with 4408")


async def half_open(ground: Ground) -> None:
    """F12: the network swallows everything, and tells nobody; the server finds out by its pings."""
    for proxy in ground.proxies:
        proxy.running.clear()
    await asyncio.sleep(25 + 10 + 8)  # Ping, its timeout, closing.
    count = [await ground.metric(web, 'fanfare_connections{transport="websocket"') for web in ground.stack.web]
    reachable = sum(isinstance(one, SocketListener) and not one.proxied for one in ground.load.listeners)
    ground.must(sum(count) <= reachable, "I7", "half-open sockets", f"{count} open, {reachable} reachable")
    for proxy in ground.proxies:
        proxy.running.set()


async def slow_network(ground: Ground) -> None:
    """F13: 100 ms more in each direction, give or take 100."""
    for proxy in ground.proxies:
        proxy.delay = proxy.jitter = 0.1
    await asyncio.sleep(10)
    for proxy in ground.proxies:
        proxy.delay = proxy.jitter = 0.0


async def drop_all(ground: Ground) -> None:
    """F11, small: every client is thrown out at once, and comes back at once."""
    ground.load.drop_all()
    await asyncio.sleep(3)


async def repeat_requests(ground: Ground) -> None:
    """F15: the same request 20 times at once, to all processes; then its key with another body."""
    for _ in range(10):
        send, body = ground.load.draft("topic.t1")
        replies = await asyncio.gather(*(ground.load.attempt(send, body) for _ in range(20)))
        statuses = {reply.status for reply in replies}
        ground.must(202 in statuses and statuses <= {202, 409, 503}, "I1", "a repetition was refused", statuses)
        _, other_body = ground.load.draft("topic.t1")
        reply = await ground.load.attempt(send, other_body)
        ground.must(reply.status in (422, 503), "I1", "a key with another body", reply)


async def nothing(_ground: Ground) -> None:
    """F0, to compare with; and F16, where the bus itself is broken from beginning to end (shuffled.py)."""
    await asyncio.sleep(8)


def in_turn(*actions: Action, pause: float = 1.0) -> Action:
    async def act(ground: Ground) -> None:
        for action in actions:
            await action(ground)
            await asyncio.sleep(pause)

    return act


# --- The matrix -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """A row of the matrix. `also` looks for what only this fault can break."""

    id: str
    title: str
    act: Action
    limits: Limits = field(default_factory=Limits)
    application: str = "config.asgi:application"
    behind_proxy: float = 0.0
    lasts: bool = False  # Until the end: there is no time to heal.
    also: Callable[[Run], Iterator[Violation]] = lambda _run: iter(())


def nothing_refused(run: Run) -> Iterator[Violation]:
    """A rolling restart costs no request, and sends clients away one after the other."""
    for reply in run.ledger.of(Reply):
        if reply.outcome == "info":
            yield Violation("F25", "a request failed", str(reply))
    restarts = sorted(line.at for line in run.ledger.of(Closed) if line.code == 1012)
    if not restarts:
        yield Violation("F25", "nobody was told", "no close with 1012")
    crowd = max((sum(at <= other < at + 0.2 for other in restarts) for at in restarts), default=0)
    if crowd > 40:  # One each 10 ms, and a busy machine.
        yield Violation("F25", "a stampede", f"{crowd} closes within 0.2 s")


def nobody_thrown_out(run: Run) -> Iterator[Violation]:
    for line in run.ledger.of(Closed):
        if not line.meant and line.code != 503:
            yield Violation("F24", "a connection was lost", str(line))


MATRIX: Sequence[Fault] = (
    Fault("F0", "nothing, to compare with", nothing),
    Fault("F1", "kill -9 of a web process, three times", in_turn(kill_web, kill_web, kill_web)),
    Fault(
        "F2", "crash between commit and publish", crash_before_publish, application="tests.faults.crashing:application"
    ),
    Fault("F4", "Redis stops answering for 5 s", stop_redis),
    # The receiver gives a bus up after 10 s of silence, and takes new connections.
    Fault("F5", "Redis dies and comes back empty", empty_redis, Limits(heal_seconds=25)),
    Fault("F9", "the database is locked", lock_database, Limits(answer_seconds=14)),
    Fault("F10", "slow readers", slow_readers),
    Fault("F11", "all clients dropped at once, twice", in_turn(drop_all, drop_all)),
    Fault("F12", "half-open connections", half_open, Limits(heal_seconds=30), behind_proxy=0.2),
    Fault("F13", "slow network", slow_network, behind_proxy=0.5),
    Fault("F15", "requests repeated", repeat_requests, Limits(answer_seconds=20)),
    Fault(
        "F16",
        "the bus loses, doubles and reorders",
        nothing,
        application="tests.faults.shuffled:application",
        lasts=True,
    ),
    Fault("F23", "5,000 messages due at once, worker killed", backlog, Limits(answer_seconds=20, heal_seconds=25)),
    Fault(
        "F24",
        "event loop stopped for 3 s, twice",
        in_turn(stop_event_loop, stop_event_loop),
        Limits(answer_seconds=15),  # The one that is stopped may hold SQLite's lock.
        also=nobody_thrown_out,
    ),
    Fault("F25", "rolling restart", rolling_restart, also=nothing_refused),
    Fault("F29", "no more files", exhaust_files, Limits(answer_seconds=12)),
)

SHORT = Fault(
    "F1+F4+F16+F25",
    "the short set",
    in_turn(kill_web, stop_redis, rolling_restart, pause=0.5),
    Limits(answer_seconds=20, heal_seconds=20),
    application="tests.faults.shuffled:application",
    lasts=True,
)


# --- Helpers --------------------------------------------------------------------------------------


def _cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / 100


@contextmanager
def _reader(ground: Ground, web: Web) -> Iterator[socket.socket]:
    """A WebSocket with a small buffer on `topic.big` that reads only when it is told to."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(5)
    raw.connect(("127.0.0.1", web.port))
    key = b64encode(ground.chance.randbytes(16)).decode()
    raw.sendall(
        f"GET /ws/?topics=topic.big HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {ground.stack.api_key}\r\n\r\n".encode()
    )
    raw.recv(1024)
    raw.setblocking(False)
    try:
        yield raw
    finally:
        raw.close()


def _masked(text: bytes) -> bytes:
    return bytes((0x81, 0x80 | len(text))) + b"\0\0\0\0" + text
