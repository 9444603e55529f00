"""`?format=raw`: frames are the `data` of messages and nothing else, beside connections that get whole events."""

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realtime import protocol, raw
from realtime.connections import DirectConnection
from realtime.fanout import fan_out
from realtime.frames import Event
from realtime.mutes import Mute
from realtime.protocol import CloseCode
from realtime.raw import RawDirectConnection, raw_bodies, raw_frames, raw_texts
from tests.realtime.sockets import PATIENCE, dial
from tests.servers import Stack, Web

# --- Bodies and frames ----------------------------------------------------------------------------


def message(data: bytes, type: str = "note") -> bytes:
    return protocol.message(topic="all", offset=1, id="i", type=type, data=data, created_at=0, sender="bob")


@pytest.mark.any_database
@pytest.mark.parametrize(
    "data", [b"null", b'{ "b":1.50,"a":"\\u00e9 \xc3\xa9","event":"x" }', b'"text"', b"[]", b'{"data":{"event":1}}']
)
def test_of_a_message_the_data_is_left_byte_for_byte(data: bytes) -> None:
    assert raw_bodies([message(data)]) == [data]


@pytest.mark.any_database
def test_of_a_pong_what_clients_expect_is_left_and_of_other_events_nothing() -> None:
    (pong,) = raw_bodies([protocol.pong("c1", ref=7)])
    assert pong == b'{"type":"pong","statusCode":200,"connectionId":"c1"}'
    others = [
        protocol.welcome("c1", "alice", {}),
        protocol.subscribed("all", None, 0, recovered=True),
        protocol.unsubscribed("all"),
        protocol.recalled("all", 1, "i"),
        protocol.receipt("read", ["i"]),
        protocol.message_read_receipt("alice", ["i"]),
        protocol.unread(1, 1, False),
        protocol.task("user.alice", "t", "report", "done", 1.0),
        protocol.reset("all", "e", 1),
        protocol.ok(1, id="i", data="of an answer"),
        protocol.error("denied", "no"),
        protocol.closed(CloseCode.KICKED, "away"),
    ]
    assert raw_bodies(others) == []
    assert raw_frames(others) == raw_texts(others) == b""
    mixed = [others[0], message(b"1"), others[3], message(b"2")]
    assert raw_frames(mixed) == b"\x81\x011\x81\x012"
    assert raw_texts(mixed) == b"1\n2"


class Wire:
    """The transport of one client."""

    def __init__(self, kind: type[DirectConnection], user: str, muted: Mute = Mute()) -> None:  # noqa: B008 (frozen)
        self.written: list[bytes] = []
        self.connection = kind(
            user=user,
            max_backlog=1_000_000,
            write=self.written.append,
            backlog=lambda: 0,
            behind=lambda: False,
            when_drained=lambda _function: None,
            close=lambda _code, _reason: None,
            muted=muted,
        )


@pytest.mark.any_database
def test_it_is_made_once_for_all_and_who_is_left_out_or_does_not_want_it_does_not_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    def counted(bodies: Any) -> list[bytes]:
        made.append(len(bodies))
        return raw_bodies(bodies)

    monkeypatch.setattr(raw, "raw_bodies", counted)
    quiet = Mute(frozenset({"noise"}))
    wires = [
        Wire(kind, f"{user}-{kind.__name__}", quiet if user == "quiet" else Mute())
        for user in ("anna", "out", "quiet")
        for kind in (RawDirectConnection, DirectConnection) * 20
    ]
    out = frozenset({"out-RawDirectConnection", "out-DirectConnection"})
    events = [
        Event("all", message(b"1")),
        Event("all", message(b"2"), exclude=out),
        Event("all", message(b"3", "noise"), type="noise"),
        Event("all", protocol.recalled("all", 1, "i"), recalls=1),
    ]
    fan_out([wire.connection for wire in wires], events, quiet.types)
    assert made == [1, 1, 1, 1]
    texts = {wire.connection.user: b"".join(wire.written) for wire in wires}
    one, two, three = (b"\x81\x01" + digit for digit in (b"1", b"2", b"3"))
    assert texts["anna-RawDirectConnection"] == one + two + three
    assert texts["out-RawDirectConnection"] == one + three
    assert texts["quiet-RawDirectConnection"] == one + two
    assert texts["anna-DirectConnection"].count(b'"event":') == 4
    assert all(frame for wire in wires for frame in wire.written)
    made.clear()
    fan_out([wire.connection for wire in wires], [Event("all", message(b"4")), Event("all", message(b"5"))])
    assert made == [2]


@pytest.mark.any_database
def test_a_state_that_is_not_for_it_is_not_written_either() -> None:
    wire = Wire(RawDirectConnection, "anna")
    fan_out([wire.connection], [Event("all", protocol.unread(1, 1, False), state=True)])
    assert wire.written == []


# --- Over real sockets ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def town() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="r", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "town", RATE_USER="") as town,
    ):
        for server in ("uvicorn", "plain-uvicorn"):
            town.start_web("tests.realtime.applications:that_shows_connections", server=server)
        yield town


@pytest.fixture(params=["RawDirectConnection", "RawSocketConnection"])
def web(request: pytest.FixtureRequest, town: Stack) -> Web:
    """The fast path and the other one."""
    return town.web[0 if request.param == "RawDirectConnection" else 1]


async def frames(socket: ClientConnection, until: Any) -> list[Any]:
    """What comes, up to and including this."""
    found: list[Any] = []
    async with asyncio.timeout(PATIENCE):
        while not found or found[-1] != until:
            found.append(json.loads(await socket.recv()))
    return found


async def test_a_broadcast_reaches_raw_and_other_connections_each_in_its_form(town: Stack, web: Web) -> None:
    name = web.server
    async with AsyncExitStack() as stack:

        async def enter(user: str, **query: str) -> Any:
            token = town.token(f"{user}-{name}")
            return await stack.enter_async_context(dial(web, token, query=query, welcomed=not query))

        with town.client(key=town.token(f"quiet-{name}")) as quiet_person:
            quiet_person.put(f"/api/users/quiet-{name}/preferences", json={"noise": "off"}).raise_for_status()
        raw_anna, whole_anna = await enter("anna", format="raw"), await enter("anna")
        raw_out, raw_quiet = await enter("out", format="raw"), await enter("quiet", format="raw")
        for one in (raw_anna, raw_out, raw_quiet):  # The answer says that it listens by now.
            await one.connection.send('{"action":"ping"}')
            (pong,) = [json.loads(await one.connection.recv())]
            assert pong == {"type": "pong", "statusCode": 200, "connectionId": pong["connectionId"]}
        town.send({"all": True}, {"text": "to all"})
        town.send({"all": True}, "not to out", exclude_users=[f"out-{name}"])
        town.send({"all": True}, "noise", type="noise")
        recalled = town.send({"all": True}, [1, None])
        with town.client() as client:
            client.delete(f"/api/notifications/{recalled['id']}").raise_for_status()
        for user in ("anna", "out", "quiet"):
            town.send({"user": f"{user}-{name}"}, "the last")
        everything = [{"text": "to all"}, "not to out", "noise", [1, None], "the last"]
        assert await frames(raw_anna.connection, "the last") == everything
        assert await frames(raw_out.connection, "the last") == [one for one in everything if one != "not to out"]
        assert await frames(raw_quiet.connection, "the last") == [one for one in everything if one != "noise"]
        await whole_anna.next(data="the last")
        assert whole_anna.data() == everything
        with town.client(web) as client:
            assert {"uvicorn": "RawDirectConnection", "plain-uvicorn": "RawSocketConnection"}[name] in set(
                client.get("/test/connections").json()
            )


async def test_actions_work_and_are_not_answered_and_ends_have_their_codes(town: Stack, web: Web) -> None:
    user = f"speaker-{web.server}"
    async with dial(web, town.token(user), query={"format": "raw"}, welcomed=False) as socket:
        await socket.send(action="send", message={"text": "hi"}, ref=1)
        await socket.send(action="subscribe", topic="topic.secret", ref=2)
        await socket.send(action="unsubscribe", topic="all", ref=3)
        await socket.send(action="ping", ref=4)
        (pong,) = [json.loads(await socket.connection.recv())]
        assert pong["type"] == "pong"
        assert set(pong) == {"type", "statusCode", "connectionId"}
        with town.client() as client:
            kept = {
                one["name"]: one["counts"]["pending"] for one in client.get("/api/destinations").json()["destinations"]
            }
            assert kept["client-messages"] == town.web.index(web) + 1
        for _ in range(3):
            await socket.send(action="dance")
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.connection.recv(), PATIENCE)
        assert socket.connection.close_code == CloseCode.BAD_FRAMES


async def test_a_format_that_there_is_not_is_refused(town: Stack, web: Web) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with dial(web, town.token("anna"), query={"format": "row"}):
            pytest.fail("it was let in")
    reply = refused.value.response
    assert reply.status_code == 400
    assert json.loads(reply.body)["error"]["code"] == "malformed"
    async with dial(web, town.token("anna"), query={"format": ""}) as anna:
        await anna.ask("pong", action="ping")
