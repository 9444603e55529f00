"""Clients that listen as docs/protocol.md says, by WebSocket, event stream or poll, and write down what they see."""

import asyncio
import base64
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from tests.faults.ledger import At, Closed, Got, Ledger, Opened
from tests.faults.wire import NotSent, opened, request

FIRST_WAIT, LONGEST_WAIT = 0.5, 3.0  # docs/protocol.md says 30 s; the tests have not that long.
POLL_SECONDS = 5
GONE = (OSError, EOFError, TimeoutError, NotSent)


class Ended(Exception):
    """The connection ended, with this close code or HTTP status."""

    def __init__(self, code: int) -> None:
        self.code = code


@dataclass(slots=True)
class Listener:
    """One client. It keeps its positions and comes back until it is told to stop."""

    name: str
    user: str
    token: str
    topics: list[str]
    door: Callable[[], int]  # The port to connect to next.
    ledger: Ledger
    chance: random.Random
    forbidden: str = ""  # It also asks for this topic, in vain.
    proxied: bool = False
    positions: dict[str, tuple[str | None, int]] = field(default_factory=dict)
    connection: int = 0
    connected: bool = False
    patient: bool = True  # It waits before it comes back.
    _meant: bool = False
    _stopping: bool = False
    _leave: Callable[[], Any] | None = None
    _code: int = 1006

    async def run(self) -> None:
        failures = 0
        while not self._stopping:
            self.connection += 1
            self._meant = False
            try:
                await self._listen()
            except Ended as ended:
                self._code = ended.code
            except GONE:
                self._code = 1006
            self._leave = None
            if self.connected or not self._meant:
                self.ledger.add(Closed(self.name, self.connection, time.time(), self._code, self._meant))
            failures = 0 if self.connected else failures + 1
            self.connected = False
            if not self._stopping and self.patient:
                await asyncio.sleep(self.chance.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**failures)))

    def leave(self) -> None:
        """Drops its connection without a word, and comes back."""
        self._meant = True
        if self._leave:
            self._leave()

    def stop(self) -> None:
        self._stopping = True
        self.leave()

    async def _listen(self) -> None:
        raise NotImplementedError

    # --- What it writes down --------------------------------------------------------------------------

    def _welcome(self, topics: dict[str, Any]) -> None:
        for topic, at in topics.items():
            self._place(topic, at["epoch"], at["offset"], "start")

    def _open(self) -> None:
        self.connected = True
        self.ledger.add(Opened(self.name, self.connection, time.time()))

    def _place(self, topic: str, epoch: str | None, offset: int, why: str) -> None:
        self.positions[topic] = (epoch, offset)
        self.ledger.add(At(self.name, topic, epoch, offset, why, time.time()))

    async def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "welcome":
                self._welcome(event["topics"])
            case "message":
                self._got(event, self.connection)
            case "subscribed" | "reset":
                topic, epoch, offset = event["topic"], event["epoch"], event["offset"]
                _, was = self.positions.get(topic, (None, 0))
                if event.get("recovered"):
                    self._place(topic, epoch, offset, "on")
                else:
                    self._place(topic, epoch, offset, "lost")
                    await self._load(topic, was, offset)
            case "error":
                if event["code"] in ("unavailable", "busy"):
                    raise Ended(4410)
                assert event["code"] == "denied", event
            case "closed":
                raise Ended(event["code"])

    def _got(self, message: dict[str, Any], connection: int) -> None:
        topic, offset = message["topic"], message["offset"]
        epoch, position = self.positions.get(topic, (None, 0))
        key = message["data"].get("key", "")
        self.ledger.add(Got(self.name, connection, topic, epoch, offset, message["id"], key, time.time()))
        if offset > position:
            self.positions[topic] = (epoch, offset)

    async def _load(self, topic: str, after: int, until: int) -> None:
        """Reads from the log what the server could not send."""
        while after < until:
            path = f"/api/topics/{quote(topic)}/messages?since={after}&limit=1000"
            try:
                answer = await request(self.door(), "GET", path, token=self.token)
            except GONE:
                await asyncio.sleep(0.2)
                continue
            if answer.status != 200:
                await asyncio.sleep(0.2)
                continue
            messages = [m for m in answer.json()["messages"] if m["offset"] <= until]
            for message in messages:
                self._got(message, 0)
            if len(messages) < 1000:
                return
            after = messages[-1]["offset"]

    def _query(self, topics: list[str]) -> str:
        return "topics=" + ",".join(quote(topic) for topic in topics)


@dataclass(slots=True)
class SocketListener(Listener):
    _socket: ClientConnection | None = None

    async def _listen(self) -> None:
        fresh = [topic for topic in self.topics if topic not in self.positions]
        url = f"ws://127.0.0.1:{self.door()}/ws/?{self._query(fresh)}"
        headers = {"Authorization": f"Bearer {self.token}"}
        try:
            async with asyncio.timeout(15):
                socket = await connect(
                    url, additional_headers=headers, compression=None, ping_interval=None, close_timeout=1, proxy=None
                )
        except InvalidStatus as refused:
            raise Ended(refused.response.status_code) from refused
        except InvalidMessage as broken:
            raise Ended(1006) from broken
        self._leave = socket.transport.abort
        if self._meant:  # It was told to leave meanwhile.
            socket.transport.abort()
        try:
            await self._subscribe(socket)
            while True:
                await self._take(msgspec.json.decode(await socket.recv()))
        except ConnectionClosed as closed:
            raise Ended(closed.rcvd.code if closed.rcvd else 1006) from closed
        finally:
            socket.transport.abort()

    async def _subscribe(self, socket: ClientConnection) -> None:
        welcome = msgspec.json.decode(await socket.recv())
        assert welcome["event"] == "welcome", welcome
        known = [topic for topic in self.topics if topic in self.positions]
        self._open()
        await self._take(welcome)
        for topic in known:
            epoch, offset = self.positions[topic]
            since = {"epoch": epoch, "offset": offset if epoch else 0}
            await socket.send(msgspec.json.encode({"action": "subscribe", "topic": topic, "since": since}).decode())
        if self.forbidden:
            await socket.send(msgspec.json.encode({"action": "subscribe", "topic": self.forbidden}).decode())


@dataclass(slots=True)
class StreamListener(Listener):
    _place_text: str = ""
    _waiting: list[dict[str, Any]] = field(default_factory=list)

    async def _listen(self) -> None:
        headers = {"Last-Event-ID": self._place_text} if self._place_text else {}
        self._waiting = []
        async with opened(
            self.door(), "GET", f"/api/stream?{self._query(self.topics)}", token=self.token, **headers
        ) as reply:
            self._leave = reply.writer.transport.abort
            if reply.status != 200:
                raise Ended(reply.status)
            self._open()
            text = b""
            async for chunk in reply.chunks():
                *blocks, text = (text + chunk).split(b"\n\n")
                for block in blocks:
                    await self._block(block)
        raise Ended(1006)

    async def _block(self, block: bytes) -> None:
        if block.startswith(b"data: "):
            event = msgspec.json.decode(block[6:])
            if self._place_text or event["event"] == "closed":
                await self._take(event)
            else:  # Without a place it could not go on from here: it has not begun yet.
                self._waiting.append(event)
        elif block.startswith(b"id: "):
            self._place_text = block[4:].decode()
            events, self._waiting = self._waiting, []
            for event in events:
                await self._take(event)


@dataclass(slots=True)
class PollListener(Listener):
    _since: str = ""

    async def _listen(self) -> None:
        while not self._meant:
            task = asyncio.ensure_future(self._poll())
            self._leave = task.cancel
            try:
                await task
            except asyncio.CancelledError:
                if not self._meant:
                    raise
        raise Ended(1000)

    async def _poll(self) -> None:
        asked_at = time.time()
        path = f"/api/poll?{self._query(self.topics)}&since={self._since}&wait={POLL_SECONDS}"
        answer = await request(self.door(), "GET", path, token=self.token, seconds=POLL_SECONDS + 20)
        if answer.status != 200:
            raise Ended(answer.status)
        self.connection += 1
        self.connected = True
        self.ledger.add(Opened(self.name, self.connection, asked_at))
        reply = answer.json()
        if not self._since:  # Where it starts, only the place says; no client has to know.
            self._welcome(_positions(reply["since"]))
        self._since = reply["since"]
        for event in reply["events"]:
            await self._take(event)


def _positions(place: str) -> dict[str, Any]:
    raw = base64.urlsafe_b64decode(place + "=" * (-len(place) % 4))
    return {topic: {"epoch": epoch, "offset": offset} for topic, (epoch, offset) in msgspec.json.decode(raw).items()}
