"""Outboxes without I/O: how far behind a reader may be, and how it is sent away."""

import asyncio
import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from accounts.principals import Kind, Principal
from realtime import admission, local_topic, metrics, runtime, streams
from realtime import connections as connections_module
from realtime.admission import Gate
from realtime.connections import (
    BEHIND_BYTES,
    BEHIND_SECONDS,
    SEND_TIMEOUT,
    Connection,
    DirectConnection,
    PollConnection,
    SocketConnection,
    StreamConnection,
)
from realtime.control import Control
from realtime.hub import Hub
from realtime.mutes import NOTHING, Mute
from realtime.observing import Nobody, Reason, why
from realtime.protocol import CloseCode, Since
from realtime.streams import _parse_place, place
from tests.realtime.fakes import FakeLog, FakeMembership, Recorder, in_virtual_time

pytestmark = pytest.mark.any_database

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def virtual_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        @staticmethod
        def monotonic() -> float:
            return asyncio.get_event_loop().time()

    monkeypatch.setattr(connections_module, "time", Clock)


class Transport:
    """A transport whose client takes what it is told to."""

    def __init__(self) -> None:
        self.written = self.taken = 0
        self.closed: list[tuple[int, str]] = []

    def connection(self, max_backlog: int = MIB) -> DirectConnection:
        return DirectConnection(
            user="alice",
            max_backlog=max_backlog,
            write=self._write,
            backlog=lambda: self.written - self.taken,
            behind=lambda: self.written - self.taken > BEHIND_BYTES,
            when_drained=self._when_drained,
            close=lambda code, reason: self.closed.append((code, reason)),
        )

    def _when_drained(self, function: Callable[[], None]) -> None:
        self.drained = function

    def take(self, count: int | None = None) -> None:
        self.taken = self.written if count is None else self.taken + count

    def _write(self, data: bytes) -> None:
        self.written += len(data)


class Peer:
    """An ASGI server's `send`, which can be stuck, and the end of the connection."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.moving = asyncio.Event()
        self.moving.set()
        self.gone = False
        self.aborted = 0

    async def send(self, message: dict[str, Any]) -> None:
        await self.moving.wait()
        if self.gone:
            raise OSError("gone")
        self.messages.append(message)

    def abort(self) -> None:
        self.aborted += 1

    def stream(self, place: Callable[[], bytes] = lambda: b"here", max_backlog: int = MIB) -> StreamConnection:
        return StreamConnection(user="alice", max_backlog=max_backlog, send=self.send, abort=self.abort, place=place)

    def socket(self, max_backlog: int = MIB) -> SocketConnection:
        return SocketConnection(user="alice", max_backlog=max_backlog, send=self.send, abort=self.abort)

    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages)

    def blocks(self) -> list[str]:
        return self.body().decode().split("\n\n")[:-1]


class World:
    """A hub with a log, and readers of its topic `all`."""

    def __init__(self) -> None:
        self.log = FakeLog()
        self.hub = Hub(
            self.log, FakeMembership(), shared=lambda _: False, recovery_events=1000, recovery_bytes=MIB // 2
        )

    async def enter(self, connection: Connection, since: Since | None = None) -> list[Any]:
        found = await self.hub.subscribe(connection, {"all": since})
        for one in found:
            connection.send(*(event.body for event in one.missed))
        self.hub.go_live(connection, found)
        return found

    def notify(self, count: int = 1, size: int = 1) -> None:
        """One event after the other, in one turn of the loop."""
        for _ in range(count):
            self.hub.receive("all", [self.log.append(data=b'"' + b"x" * size + b'"')])

    def place_of(self, connection: Connection) -> Callable[[], bytes]:
        return lambda: place(self.hub.places(connection))

    async def stream(self, peer: Peer, since: Since | None = None, **options: Any) -> StreamConnection:
        places: list[Callable[[], bytes]] = []
        connection = peer.stream(lambda: places[0](), **options)
        places.append(self.place_of(connection))
        await self.enter(connection, since)
        return connection


def offsets(bodies: list[bytes] | list[str]) -> list[int]:
    events = [json.loads(body) for body in bodies]
    return [event["offset"] for event in events if event["event"] == "message"]


def slow_readers() -> float:
    return float(metrics.drops.labels("slow_reader")._value.get())


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# --- How far behind -------------------------------------------------------------------------------


@in_virtual_time
async def test_a_reader_may_be_as_far_behind_as_the_bound_and_not_a_byte_further() -> None:
    transport = Transport()
    connection = transport.connection()
    for _ in range(16):
        connection.write(b"x" * (MIB // 16))
    await turn()
    assert not transport.closed
    connection.write(b"x")
    await turn()
    assert [code for code, _ in transport.closed] == [CloseCode.SLOW_READER]


@in_virtual_time
async def test_a_single_write_of_any_size_is_no_sign_of_a_slow_reader() -> None:
    transport = Transport()
    connection = transport.connection()
    connection.write(b"x" * 3 * MIB)
    await turn()
    assert not transport.closed
    connection.write(b"x")  # By now it should have taken some.
    await turn()
    assert transport.closed


@in_virtual_time
async def test_a_burst_that_a_queue_has_not_had_a_turn_to_send_is_no_sign_of_a_slow_reader_either() -> None:
    peer = Peer()
    connection = peer.stream()
    connection.write(b"x" * 3 * MIB)
    await turn()
    assert not connection.closed
    await connection.stop()


@in_virtual_time
async def test_a_reader_that_lacks_what_was_written_ten_seconds_ago_is_too_slow_however_little_it_is() -> None:
    transport = Transport()
    connection = transport.connection()
    connection.write(b"first")
    connection.write(b"second")  # The mark: five bytes of it are old.
    await asyncio.sleep(BEHIND_SECONDS - 0.1)
    connection.write(b"third")
    await turn()
    assert not transport.closed
    await asyncio.sleep(0.2)
    connection.write(b"fourth")
    await turn()
    assert [code for code, _ in transport.closed] == [CloseCode.SLOW_READER]


@in_virtual_time
async def test_a_reader_that_keeps_up_with_what_is_older_is_never_too_slow() -> None:
    transport = Transport()
    connection = transport.connection()
    connection.write(b"x" * 1000)
    for _ in range(100):  # A second of backlog, for 100 s.
        connection.write(b"x" * 1000)
        await asyncio.sleep(1)
        transport.take(1000)
    assert transport.written - transport.taken == 1000
    assert not transport.closed


@in_virtual_time
async def test_silence_does_not_count_as_being_behind() -> None:
    transport = Transport()
    connection = transport.connection()
    for _ in range(5):
        connection.write(b"one")
        connection.write(b"two")
        transport.take()
        await asyncio.sleep(10 * BEHIND_SECONDS)
    assert not transport.closed


@in_virtual_time
async def test_the_same_bounds_hold_for_an_outbox_in_front_of_asgi() -> None:
    for make in (Peer.stream, Peer.socket):
        peer = Peer()
        peer.moving.clear()
        connection = make(peer, max_backlog=1000)
        connection.write(b"x" * 900)
        connection.write(b"x" * 100)
        await turn()
        assert not connection.closed
        connection.write(b"x")
        await turn()
        assert connection.closed
        await connection.stop()


@in_virtual_time
async def test_a_slow_reader_is_counted_once_and_closed_once() -> None:
    before, transport = slow_readers(), Transport()
    connection = transport.connection(max_backlog=10)
    for _ in range(5):
        connection.write(b"x" * 8)
    await turn()
    connection.write(b"x" * 8)
    connection.close(CloseCode.SERVICE_RESTART, "restarting")
    await turn()
    assert [code for code, _ in transport.closed] == [CloseCode.SLOW_READER]
    assert why(connection, 1005) is Reason.TIMEOUT
    assert slow_readers() == before + 1
    assert transport.written == 40, "nothing is written after the close"


# --- State topics: the newest only ----------------------------------------------------------------


@in_virtual_time
async def test_a_reader_who_keeps_up_gets_every_state_update() -> None:
    transport = Transport()
    connection = transport.connection()
    for _ in range(3):
        connection.write_newest("board.a", b"state")
    assert transport.written == 15


@in_virtual_time
async def test_a_reader_who_is_behind_gets_the_newest_state_of_each_topic_once_it_has_caught_up() -> None:
    written: list[bytes] = []
    waiting = [True]
    drained: list[Callable[[], None]] = []
    connection = DirectConnection(
        user="alice",
        max_backlog=MIB,
        write=written.append,
        backlog=lambda: 0,
        behind=lambda: waiting[0],
        when_drained=drained.append,
        close=lambda code, reason: None,
    )
    connection.write(b"log")  # What belongs to a log is never left out.
    for number in range(1000):
        connection.write_newest("board.a", b"a%d" % number)
        connection.write_newest("board.b", b"b%d" % number)
    assert written == [b"log"]
    waiting[0] = False
    drained[0]()
    assert written == [b"log", b"a999", b"b999"]
    connection.write_newest("board.a", b"next")
    assert written[-1] == b"next"


@in_virtual_time
async def test_a_queued_reader_gets_the_newest_state_after_what_waited_before_it() -> None:
    peer = Peer()
    connection = SocketConnection(user="alice", max_backlog=MIB, send=peer.send, abort=lambda: None)
    peer.moving.clear()
    connection.write(b"x" * (BEHIND_BYTES + 1))
    for number in range(5):
        connection.write_newest("board.a", b"%d" % number)
    peer.moving.set()
    await turn()
    assert [message["text"][:1] for message in peer.messages] == ["x", "4"]
    await connection.stop()


# --- How it is sent away --------------------------------------------------------------------------


@in_virtual_time
async def test_a_slow_reader_is_closed_at_the_end_of_the_turn_not_amid_what_the_hub_writes() -> None:
    transport = Transport()
    connection = transport.connection(max_backlog=10)
    connection.write(b"x" * 8)
    connection.write(b"x" * 8)
    assert not connection.closed
    connection.write(b"x" * 8)  # Of the same turn.
    assert transport.written == 24
    await turn()
    assert connection.closed


@in_virtual_time
async def test_the_place_of_a_slow_stream_is_true_so_that_nothing_is_skipped_or_repeated() -> None:
    world, peer = World(), Peer()
    connection = await world.stream(peer, max_backlog=2000)
    world.notify(3)
    await turn()
    peer.moving.clear()
    world.notify(2)
    await turn()
    world.notify(20, size=200)  # Too much, in one turn: all of it is still written.
    assert not connection.closed
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert connection.closed
    world.notify(5)  # Nothing of this goes out.
    peer.moving.set()
    await turn()

    blocks = peer.blocks()
    assert json.loads(blocks[-1].removeprefix("data: ")) == {
        "event": "closed",
        "code": 4408,
        "reason": "slow reader, come back",
    }
    got = offsets([block.removeprefix("data: ") for block in blocks if block.startswith("data: ")])
    last_id = [block.removeprefix("id: ") for block in blocks if block.startswith("id: ")][-1]
    assert got == list(range(1, 26))
    since = _parse_place(last_id)["all"]
    assert since.offset == got[-1]

    world.hub.leave(connection)
    back = Peer()
    resumed = await world.stream(back, since)
    await turn()
    assert offsets([block.removeprefix("data: ") for block in back.blocks() if block.startswith("data: ")]) == [
        26,
        27,
        28,
        29,
        30,
    ]
    await connection.stop()
    await resumed.stop()


@in_virtual_time
async def test_the_place_of_a_poll_that_got_too_much_is_true() -> None:
    world = World()
    places: list[Callable[[], bytes]] = []
    connection = PollConnection(user="alice", max_backlog=2000, place=lambda: places[0]())
    places.append(world.place_of(connection))
    await world.enter(connection)
    world.notify(20, size=200)
    await turn()
    assert connection.closed
    world.notify(3)
    assert offsets(connection.events) == list(range(1, 21))
    assert json.loads(connection.events[-1])["code"] == 4408
    assert why(connection) is Reason.CLOSED, "its client takes the answer"
    assert _parse_place(connection.place().decode())["all"].offset == 20


@in_virtual_time
async def test_the_goodbye_comes_after_the_outbox_and_nothing_after_it() -> None:
    async def goodbye(connection: StreamConnection | SocketConnection, peer: Peer) -> None:
        peer.moving.clear()
        connection.send(b'"one"')
        await turn()
        connection.send(b'"two"', b'"three"')
        connection.close(CloseCode.TOKEN_EXPIRED, "over")
        connection.send(b'"four"')
        connection.close(CloseCode.SERVICE_RESTART, "again")
        peer.moving.set()
        await turn()
        await connection.stop()

    peer = Peer()
    await goodbye(peer.stream(), peer)
    assert peer.blocks() == [
        'data: "one"',
        "id: here",
        'data: "two"',
        'data: "three"',
        "id: here",
        'data: {"event":"closed","code":4401,"reason":"over"}',
    ]
    assert [message["more_body"] for message in peer.messages] == [True, True, False]
    peer = Peer()
    await goodbye(peer.socket(), peer)
    assert peer.messages == [
        {"type": "websocket.send", "text": '"one"'},
        {"type": "websocket.send", "text": '"two"'},
        {"type": "websocket.send", "text": '"three"'},
        {"type": "websocket.close", "code": 4401, "reason": "over"},
    ]


@pytest.mark.parametrize("make", [Peer.stream, Peer.socket])
def test_a_send_that_is_stuck_ends_the_connection_without_a_word(make: Callable[..., Any]) -> None:
    @in_virtual_time
    async def run() -> None:
        peer = Peer()
        peer.moving.clear()
        connection = make(peer)
        connection.send(b'"one"')
        await asyncio.sleep(SEND_TIMEOUT - 0.1)
        assert peer.messages == []
        assert not connection.closed
        await asyncio.sleep(0.2)
        assert peer.aborted == 1
        assert connection.closed
        assert why(connection) is Reason.TIMEOUT
        connection.send(b'"two"')
        peer.moving.set()
        await turn()
        assert peer.messages == []
        await connection.stop()

    run()


@pytest.mark.parametrize("make", [Peer.stream, Peer.socket])
def test_a_goodbye_that_is_stuck_ends_the_connection_too(make: Callable[..., Any]) -> None:
    @in_virtual_time
    async def run() -> None:
        peer = Peer()
        peer.moving.clear()
        connection = make(peer)
        connection.close(CloseCode.SERVICE_RESTART, "restarting")
        await asyncio.sleep(SEND_TIMEOUT + 0.1)
        assert peer.aborted == 1
        assert why(connection) is Reason.RESTART
        await connection.stop()

    run()


@pytest.mark.parametrize("make", [Peer.stream, Peer.socket])
def test_a_client_that_has_left_ends_the_writer(make: Callable[..., Any]) -> None:
    @in_virtual_time
    async def run() -> None:
        peer = Peer()
        peer.gone = True
        connection = make(peer)
        connection.send(b'"one"')
        await turn()
        assert peer.aborted == 1
        assert connection.closed
        assert why(connection) is Reason.CLOSED
        await connection.stop()

    run()


@in_virtual_time
async def test_stopping_leaves_no_task_behind() -> None:
    peer = Peer()
    for connection in (peer.stream(), peer.socket()):
        await connection.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_who_is_sent_away_while_catching_up_comes_back_to_where_it_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its place would lack the topic, and it would go on from wherever that is by then."""
    reader = Principal(Kind.SERVICE, "tests", scopes=frozenset({"notifications:read"}))

    async def identify(_scope: Any) -> tuple[Principal, Mute]:
        return reader, NOTHING

    monkeypatch.setattr(local_topic, "HELD_EVENTS", 10)
    monkeypatch.setattr(admission, "identify", identify)

    async def call(endpoint: Any, world: World, since: bytes) -> bytes:
        peer = Peer()
        query = b"topics=all&wait=0&since=" + since
        scope = {"type": "http", "method": "GET", "headers": [], "query_string": query}
        over = asyncio.Event()

        async def receive() -> dict[str, Any]:
            await over.wait()
            return {"type": "http.disconnect"}

        asyncio.get_running_loop().call_later(5, over.set)
        await endpoint(scope, receive, peer.send)
        return b"".join(message.get("body", b"") for message in peer.messages)

    @in_virtual_time
    async def run() -> None:
        for endpoint in (streams.poll, streams.stream):
            world = World()
            world.log.seconds = 0.2
            house = SimpleNamespace(hub=world.hub, gate=Gate(), control=Control(), observer=Nobody())
            monkeypatch.setattr(runtime, "current", lambda house=house: house)
            opening = Recorder()  # Keeps the hub in the topic.
            await world.enter(opening)
            world.notify(5)
            # The log is read after 0.1 s, and the answer comes 0.1 s later: what comes in between is held.
            asyncio.get_running_loop().call_later(0.15, world.notify, 11)
            answer = await call(endpoint, world, place({"all": Since("one", 0)}))
            assert b'"code":4409' in answer
            ids = re.findall(rb'(?:^id: |"since":")([\w-]+)', answer, re.MULTILINE)
            assert _parse_place(ids[-1].decode()) == {"all": Since("one", 5)}
            back = await call(endpoint, world, ids[-1])
            assert [int(offset) for offset in re.findall(rb'"offset":(\d+),"id"', back)] == list(range(6, 17))

    run()


# --- What each kind writes ------------------------------------------------------------------------


@in_virtual_time
async def test_what_was_written_in_one_turn_is_one_flush_with_one_place_after_it() -> None:
    world, peer = World(), Peer()
    world.notify()
    connection = await world.stream(peer)
    world.notify(2)
    connection.send(b'{"event":"pong"}')
    await turn()
    world.notify()
    await turn()
    ids = [block for block in peer.blocks() if block.startswith("id: ")]
    assert [_parse_place(one.removeprefix("id: "))["all"].offset for one in ids] == [3, 4]
    assert [block.partition(":")[0] for block in peer.blocks()] == ["data", "data", "data", "id", "data", "id"]
    assert len(peer.messages) == 2
    await connection.stop()


@in_virtual_time
async def test_a_comment_is_a_block_without_data() -> None:
    peer = Peer()
    connection = peer.stream()
    connection.comment()
    await turn()
    assert peer.blocks()[0] == ":"
    await connection.stop()


@in_virtual_time
async def test_every_receiver_of_one_kind_gets_the_same_bytes() -> None:
    world = World()
    world.notify()
    written: list[bytes] = []

    def keep(data: bytes) -> None:
        written.append(data)

    for _ in range(3):
        connection = DirectConnection(
            user="alice",
            max_backlog=MIB,
            write=keep,
            backlog=lambda: 0,
            behind=lambda: False,
            when_drained=lambda _: None,
            close=lambda code, reason: None,
        )
        await world.enter(connection)
    world.notify()
    assert len(written) == 3
    assert written[0] is written[1] is written[2]


@in_virtual_time
async def test_a_poll_is_woken_by_the_first_event_and_by_its_end() -> None:
    polls = [PollConnection(user="alice", max_backlog=MIB, place=lambda: b"here") for _ in range(2)]
    assert not any(poll.something.is_set() for poll in polls)
    polls[0].send(b'{"event":"pong"}')
    polls[1].close(CloseCode.TOKEN_EXPIRED, "over")
    assert all(poll.something.is_set() for poll in polls)


def test_a_place_comes_back_as_it_was() -> None:
    positions = {"user.ö": Since("e1", 7), "all": Since(None, 0)}
    assert _parse_place(place(positions).decode()) == positions
    assert b"=" not in place(positions)
