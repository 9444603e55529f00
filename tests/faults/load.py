"""The load: producers over HTTP, clients that come and go, and what the processes use meanwhile."""

import asyncio
import itertools
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg

from tests.faults.ledger import Client, Ledger, Recall, Reply, Sample, Send
from tests.faults.listeners import GONE, Listener, PollListener, SocketListener, StreamListener
from tests.faults.wire import NotSent, request
from tests.servers import Stack

ACCOUNT = "crowd"
SECRET = "topic.secret"
CHURN, CHURN_SECONDS = 0.1, 10.0  # So many of the clients leave and come back in this time.
PATIENCE = 60.0  # Seconds for which a producer repeats what it does not know the outcome of.
ANSWER_SECONDS = 30.0
MOST_AT_ONCE = 1000  # Requests.
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Size:
    rate: float = 200.0  # Messages a second.
    topics: int = 50
    sockets: int = 500
    topics_each: int = 2
    scheduled: float = 0.0  # This part of the messages; needs a worker.


@dataclass(slots=True)
class Door:
    """A web process as clients reach it; a balancer sends nobody to one that is not ready."""

    port: int
    socket_port: int  # Another one where a proxy stands before the process.
    ready: bool = True


@dataclass(slots=True)
class Load:
    """`start`, `start_sending`, then `stop_sending`, `settle` and `close`."""

    stack: Stack
    doors: list[Door]
    size: Size
    seed: int
    ledger: Ledger = field(default_factory=Ledger)
    listeners: list[Listener] = field(default_factory=list)
    behind_proxy: float = 0.0  # This part of the clients connects to `socket_port`.
    refused_connections: int = 0
    ends: dict[str, int] = field(default_factory=dict)  # The last offset of each topic, once there is one.
    _chance: random.Random = field(default_factory=random.Random)
    _names: list[str] = field(default_factory=list)
    _tasks: list["asyncio.Task[None]"] = field(default_factory=list)
    _runs: list["asyncio.Task[None]"] = field(default_factory=list)
    _senders: list["asyncio.Task[None]"] = field(default_factory=list)
    _requests: set["asyncio.Task[None]"] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self) -> None:
        self._chance = random.Random(self.seed)
        self._names = [f"account.{ACCOUNT}", *(f"topic.t{n}" for n in range(1, self.size.topics))]
        self.listeners = [self._listener(number) for number in range(self.size.sockets)]
        self._tasks = [asyncio.create_task(work) for work in (self._sample(), self._balance())]
        self._runs = [asyncio.create_task(listener.run()) for listener in self.listeners]

    def start_sending(self) -> None:
        self._senders = [asyncio.create_task(work) for work in (self._keep_sending(), self._churn())]

    async def stop_sending(self) -> None:
        await _cancel(self._senders)

    async def settle(self, seconds: float) -> dict[str, int]:
        """Waits until every request has an outcome and every client has everything -> what is left over.

        Requests without an outcome are then given up: none gets one after the log was read.
        """
        await eventually(lambda: not self._requests and not self.scheduled(), seconds)
        left = {"requests without an outcome": len(self._requests), "scheduled messages": self.scheduled()}
        last = await asyncio.gather(*(self.send(topic) for topic in self._names))
        self.ends = {topic: reply.offset or 0 for topic, reply in zip(self._names, last, strict=True) if reply}
        await eventually(lambda: not self.behind(), seconds)
        await _cancel([*self._requests])
        return left | {"clients that lack the end of a topic": self.behind()}

    def behind(self) -> int:
        """How many clients do not have the last message of a topic yet."""
        return sum(
            any(listener.positions.get(topic, (None, -1))[1] < self.ends.get(topic, 0) for topic in listener.topics)
            for listener in self.listeners
        )

    async def leave(self) -> None:
        """All clients go."""
        for listener in self.listeners:
            listener.stop()
        await asyncio.wait(self._runs, timeout=10)
        for run in self._runs:
            if run.done() and not run.cancelled():
                run.result()  # A client that saw what cannot be raises here.

    async def close(self) -> None:
        await _cancel([*self._tasks, *self._senders, *self._requests, *self._runs])

    # --- Clients ------------------------------------------------------------------------------------

    def _listener(self, number: int) -> Listener:
        kind: type[Listener] = StreamListener if number % 10 == 8 else SocketListener
        kind = PollListener if number % 50 == 9 else kind  # Few: each message costs them a request.
        user = f"u{number}"
        topics = self._chance.sample(self._names, self.size.topics_each)
        token = self.stack.token(user, ACCOUNT, ttl=3600, subscribe=topics)
        self.ledger.clients[user] = Client(user, frozenset(topics))
        proxied = self._chance.random() < self.behind_proxy
        chance = random.Random(f"{self.seed} {number}")
        return kind(
            user,
            user,
            token,
            topics,
            lambda: self._choose(chance, proxied=proxied),
            self.ledger,
            chance,
            forbidden=SECRET if number % 20 == 0 else "",
            proxied=proxied,
        )

    def _choose(self, chance: random.Random, *, proxied: bool = False) -> int:
        doors = [door for door in self.doors if door.ready] or self.doors
        door = chance.choice(doors)
        return door.socket_port if proxied else door.port

    async def _churn(self) -> None:
        pause = CHURN_SECONDS / max(1.0, self.size.sockets * CHURN)
        while True:
            await asyncio.sleep(pause)
            self._chance.choice(self.listeners).leave()

    def drop_all(self) -> None:
        """Every client loses its connection at once, and comes back at once."""
        for listener in self.listeners:
            listener.patient = False
            listener.leave()

    # --- Producers ----------------------------------------------------------------------------------

    async def _keep_sending(self) -> None:
        began, count = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began) * self.size.rate)
            for _ in range(count, due):
                if len(self._requests) < MOST_AT_ONCE:
                    self.send_one()
            count = due
            await asyncio.sleep(min(0.02, 1 / self.size.rate))

    def send_one(self) -> None:
        topic = SECRET if self._chance.random() < 0.01 else self._chance.choice(self._names)
        more: dict[str, Any] = {}
        dice = self._chance.random()
        if dice < 0.03:
            more["ttl"] = 2
        elif dice < 0.03 + self.size.scheduled:
            more["send_at"] = datetime.fromtimestamp(time.time() + self._chance.uniform(0.5, 4), UTC).isoformat()
        if topic.startswith("account.") and self._chance.random() < 0.3:
            more["exclude_users"] = [self._chance.choice(self.listeners).user]
        task = asyncio.create_task(self._send_and_recall(topic, more, recall=self._chance.random() < 0.01))
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

    async def _send_and_recall(self, topic: str, more: dict[str, Any], *, recall: bool) -> None:
        sent = await self.send(topic, **more)
        if sent and recall:
            self.ledger.add(Recall(sent.id, time.time()))
            with suppress(*GONE):
                port = self._choose(self._chance)
                await request(port, "DELETE", f"/api/notifications/{sent.id}", token=self.stack.api_key)

    async def send(self, topic: str, *, pad: int = 100, **more: Any) -> Reply | None:
        """Sends until the outcome is known, or patience ends -> how it was accepted."""
        send, body = self.draft(topic, pad=pad, **more)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            reply = await self.attempt(send, body)
            if reply.outcome == "ok":
                return reply
            if reply.outcome == "fail" and reply.status not in (0, 409, 429, 503):
                return None
            await asyncio.sleep(self._chance.uniform(0.02, 0.3))
        return None

    def draft(self, topic: str, *, pad: int = 100, **more: Any) -> tuple[Send, dict[str, Any]]:
        """A message with a key of its own: its line in the ledger, and its body."""
        key = f"{self.seed}-{next(self._numbers)}"
        kind, _, name = topic.partition(".")
        body = {"to": {kind: name}, "data": {"key": key, "pad": "x" * pad}, **more}
        return Send(key, topic, time.time(), expires="ttl" in more, scheduled="send_at" in more), body

    async def send_batch(self, count: int, **more: Any) -> None:
        """Many messages in one request, to random topics."""
        drafts = [self.draft(self._chance.choice(self._names), **more) for _ in range(count)]
        asked_at = time.time()
        for send, _body in drafts:
            self.ledger.add(send)
        body = {"notifications": [body for _send, body in drafts]}
        port, key = self._choose(self._chance), f"batch-{drafts[0][0].key}"
        path, token = "/api/notifications/batch", self.stack.api_key
        answer = await request(port, "POST", path, token=token, body=body, Idempotency_Key=key)
        assert answer.status == 202, answer
        for (send, _body), said in zip(drafts, answer.json()["results"], strict=True):
            place = said["id"], said["epoch"], said["offset"]
            self.ledger.add(Reply(send.key, asked_at, time.time(), "ok", 202, False, *place))

    async def attempt(self, send: Send, body: dict[str, Any]) -> Reply:
        """One request, with a line before and a line after."""
        asked_at = time.time()
        self.ledger.add(send)
        reply = Reply(send.key, asked_at, asked_at, "info", 0)
        try:
            reply = await self._ask(send, body, asked_at)
        finally:  # Also when it is given up.
            self.ledger.add(reply)
        return reply

    async def _ask(self, send: Send, body: dict[str, Any], asked_at: float) -> Reply:
        try:
            answer = await request(
                self._choose(self._chance),
                "POST",
                "/api/notifications",
                token=self.stack.api_key,
                body=body,
                seconds=ANSWER_SECONDS,
                Idempotency_Key=send.key,
            )
        except NotSent:
            self.refused_connections += 1
            return Reply(send.key, asked_at, time.time(), "fail", 0)
        except (OSError, EOFError, TimeoutError):
            return Reply(send.key, asked_at, time.time(), "info", 0)
        now, wait = time.time(), "retry-after" in answer.headers
        if answer.status == 202:
            said = answer.json()
            return Reply(send.key, asked_at, now, "ok", 202, False, said["id"], said["epoch"], said["offset"])
        known = answer.status < 500 or answer.json()["error"]["code"] == "busy"
        return Reply(send.key, asked_at, now, "fail" if known else "info", answer.status, wait)

    # --- What is looked at meanwhile ----------------------------------------------------------------

    async def _balance(self) -> None:
        """What every balancer does: asks each process whether it is ready."""

        async def ask(door: Door) -> None:
            try:
                door.ready = (await request(door.port, "GET", "/readyz", seconds=1)).status == 200
            except GONE:
                door.ready = False

        while True:
            await asyncio.gather(*(ask(door) for door in self.doors))
            await asyncio.sleep(0.2)

    async def _sample(self) -> None:
        while True:
            for web in self.stack.web:
                if sample := sample_of(web.process.pid):
                    self.ledger.add(sample)
            await asyncio.sleep(0.5)

    def scheduled(self) -> int:
        """Messages that are scheduled and not sent yet."""
        address = self.stack.environment.get("DATABASE_URL")
        connection: Any = psycopg.connect(address) if address else sqlite3.connect(self.stack.home / "fanfare.sqlite3")
        try:
            query = 'SELECT count(*) FROM notifications_message WHERE "offset" IS NULL AND recalled_at IS NULL'
            return int(connection.execute(query).fetchone()[0])
        finally:
            connection.close()


def sample_of(pid: int) -> Sample | None:
    """Open files without those of SQLite: it keeps as many as it once needed, and uses them again."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        files = 0
        for file in folder.iterdir():
            with suppress(FileNotFoundError):
                files += ".sqlite3" not in os.readlink(file)
        return Sample(pid, pages * PAGE, files, time.time())
    except (OSError, IndexError):
        return None  # It is gone.


async def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Waits until the condition holds -> whether it does."""
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return holds


async def _cancel(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result
