"""Each limit has an answer and a number in /metrics, and who keeps to them notices nothing: on the real stack."""

import asyncio
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from realtime import admission, connections, uvicorn_protocol
from tests.realtime.inside import APPLICATION, accepted, inside, memory, metric
from tests.realtime.raw import (
    BINARY,
    CONTINUATION,
    PATIENCE,
    PING,
    PONG,
    TEXT,
    Raw,
    frame,
    http,
    live,
    request,
    text,
    upgrade,
)
from tests.realtime.sockets import dial
from tests.servers import Stack, Web, eventually

pytestmark = pytest.mark.any_database

MIB = 1024 * 1024
CONSTANTS = {
    "realtime.admission.AUTHENTICATE_SECONDS": 1.0,
    "realtime.connections.SEND_TIMEOUT": 2.0,
    "realtime.uvicorn_protocol.HEADER_SECONDS": 1.0,
    "realtime.uvicorn_protocol.STUCK_SECONDS": 3.0,
}
SMALL: dict[str, Any] = {
    "FRAMES_PER_SECOND": "2",
    "FRAMES_BURST": "10",
    "CONNECTIONS_PER_USER": "2",
    "CONNECTIONS_PER_PROCESS": "6",
    "HANDSHAKES_PER_SECOND": "30",
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Two web processes: one with the limits as they are, one with small ones."""
    with (
        tempfile.TemporaryDirectory(prefix="l", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0", CONSTANTS=json.dumps(CONSTANTS)) as stack,
    ):
        stack.start_web(APPLICATION, wait=False)
        stack.start_web(APPLICATION, wait=False, **SMALL)
        for web in stack.web:
            web.wait_until_ready()
        yield stack


@pytest.fixture
def web(stack: Stack) -> Iterator[Web]:
    yield stack.web[0]
    _left_empty(stack, stack.web[0])


@pytest.fixture
def small(stack: Stack) -> Iterator[Web]:
    eventually(lambda: _handshakes_are_free(stack), PATIENCE)
    yield stack.web[1]
    _left_empty(stack, stack.web[1])


@pytest.fixture
def clients() -> Iterator[ExitStack]:
    """Ends those who are entered, at the end."""
    with ExitStack() as clients:
        yield clients


def _left_empty(stack: Stack, web: Web) -> None:
    """Whatever a client does: nothing of it stays, and the server does not fail."""
    eventually(lambda: not inside(web)["inside"], PATIENCE, lambda: str(inside(web))[:300])
    assert "Traceback" not in stack.logs(), stack.logs()[-3000:]


def _handshakes_are_free(stack: Stack) -> bool:
    url = f"{stack.web[1].url}/api/poll"
    return all(http.get(url).status_code == 401 for _ in range(5))


class Counted:
    """Sees to it that a number in /metrics grows."""

    def __init__(self, web: Web, name: str, by: int = 1, **labels: str) -> None:
        self._now: Callable[[], float] = lambda: metric(web, name, **labels)
        self._before, self._by = self._now(), by

    def check(self) -> None:
        eventually(lambda: self._now() == self._before + self._by, PATIENCE, lambda: str(self._now() - self._before))


# --- What a client sends --------------------------------------------------------------------------


def test_a_frame_of_64_kib_is_taken_and_a_byte_more_is_not(stack: Stack, web: Web) -> None:
    closes = Counted(web, "fanfare_closes_total", 2, code="1009")
    whole = b'{"action":"ping","ref":"%s"}'
    ref = "x" * (65536 - len(whole % b""))
    with live(web.port, stack.api_key) as raw:
        raw.send(frame(TEXT, whole % ref.encode()))
        assert raw.event("pong")["ref"] == ref
        raw.send(frame(TEXT, whole % (ref + "x").encode()))
        assert raw.close_code() == 1009
    with live(web.port, stack.api_key) as raw:
        raw.send(*(frame(opcode, b" " * 30_000, final=False) for opcode in (TEXT, CONTINUATION, CONTINUATION)))
        assert raw.close_code() == 1009
    closes.check()


BAD_FRAMES = [
    (frame(TEXT, b"nonsense"), "malformed"),
    (frame(TEXT, b""), "malformed"),
    (frame(TEXT, b"[]"), "malformed"),
    (frame(TEXT, b"null"), "malformed"),
    (frame(BINARY, b'{"action":"ping"}'), "malformed"),
    (frame(TEXT, b'{"action":"ping","ref":%s}' % (b"[" * 40 + b"]" * 40)), "malformed"),
    (frame(TEXT, b"[" * 30_000), "malformed"),
    (frame(TEXT, b'{"action":"ping","action":"ping"}'), "malformed"),
    (frame(TEXT, b'{"action":"ping","ref":"\\u0000"}'), "malformed"),
    (frame(TEXT, b'{"action":"ping","ref":"\\ud800"}'), "malformed"),
    (frame(TEXT, b'{"action":"ping","ref":1e999}'), "malformed"),
    (frame(TEXT, b'{"action":"ping","ref":18446744073709551616}'), "malformed"),
    (text({"action": "ping", "more": 1}), "malformed"),
    (text({"action": "subscribe"}), "malformed"),
    (text({"action": "subscribe", "topic": 7}), "malformed"),
    (text({"action": "subscribe", "topic": "all", "since": 7}), "malformed"),
    (text({"action": "publish", "topic": "all"}), "malformed"),
    (text({"action": "dance"}), "unknown_action"),
    (text({"action": None}), "unknown_action"),
    (text({"event": "message"}), "unknown_action"),
    (text({}), "unknown_action"),
]


def test_what_is_not_understood_is_an_error_and_three_in_a_row_end_the_socket(stack: Stack, web: Web) -> None:
    sockets = -(-len(BAD_FRAMES) // 3)
    closes = Counted(web, "fanfare_closes_total", sockets, code="4500")
    for start in range(0, 3 * sockets, 3):
        with live(web.port, stack.api_key) as raw:
            for number in range(start, start + 3):
                bad, code = BAD_FRAMES[number % len(BAD_FRAMES)]
                raw.send(bad)
                assert raw.event()["code"] == code, bad[:80]
            assert raw.close_code() == 4500
    closes.check()


def test_a_good_frame_in_between_forgives(stack: Stack, web: Web) -> None:
    with live(web.port, stack.api_key) as raw:
        for _ in range(5):
            raw.send(text("nonsense"), text("nonsense"), text({"action": "ping", "ref": 1}))
            assert [raw.event()["event"] for _ in range(3)] == ["error", "error", "pong"]


def test_text_that_is_not_utf_8_ends_the_socket(stack: Stack, web: Web) -> None:
    closes = Counted(web, "fanfare_closes_total", code="1007")
    with live(web.port, stack.api_key) as raw:
        raw.send(frame(TEXT, b'{"action":"ping","ref":"\xff"}'))
        assert raw.close_code() == 1007
    closes.check()


def test_a_flood_of_pings_ends_the_socket_and_a_few_do_not(stack: Stack, web: Web) -> None:
    closes = Counted(web, "fanfare_closes_total", code="1008")
    with live(web.port, stack.api_key) as raw:
        raw.send(*(frame(PING, str(number).encode()) for number in range(25)))
        assert [raw.frame() for _ in range(25)] == [(PONG, str(number).encode()) for number in range(25)]
        raw.send(frame(PING) * 10_000)
        assert raw.close_code() == 1008
    closes.check()


def test_a_flood_of_pongs_is_nothing(stack: Stack, web: Web) -> None:
    with live(web.port, stack.api_key) as raw:
        raw.send(frame(PONG, b"x" * 125) * 5000, text({"action": "ping", "ref": 1}))
        assert raw.event()["event"] == "pong"


def test_a_message_of_too_many_fragments_ends_the_socket(stack: Stack, web: Web) -> None:
    closes = Counted(web, "fanfare_closes_total", code="1008")
    with live(web.port, stack.api_key) as raw:
        raw.send(frame(TEXT, b'{"action":', final=False), frame(CONTINUATION, final=False) * 200)
        raw.send(frame(CONTINUATION, b'"ping"}'))
        assert raw.event()["event"] == "pong"
        raw.send(frame(TEXT, b"{", final=False), frame(CONTINUATION, final=False) * 10_000)
        assert raw.close_code() == 1008
    closes.check()


def test_too_many_frames_are_an_error_and_going_on_ends_the_socket(stack: Stack, small: Web) -> None:
    closes = Counted(small, "fanfare_closes_total", code="4429")
    with live(small.port, stack.api_key) as raw:
        raw.send(text({"action": "ping", "ref": 1}) * 11)
        assert [raw.event()["event"] for _ in range(11)] == ["pong"] * 10 + ["error"]
        time.sleep(1.2)  # Two more, on average.
        raw.send(text({"action": "ping", "ref": 1}) * 2)
        assert [raw.event()["event"] for _ in range(2)] == ["pong"] * 2
        raw.send(text({"action": "ping", "ref": 1}) * 20)
        events = []
        while (one := raw.frame())[0] == TEXT:
            events.append(json.loads(one[1]))
        errors = [event for event in events if event["event"] == "error"]
        assert [(error["code"], "ref" in error) for error in errors] == [("rate_limited", False)] * 3
        assert int.from_bytes(one[1][:2]) == 4429
    closes.check()


def test_the_129th_topic_is_refused_and_one_less_makes_room(stack: Stack, web: Web) -> None:
    names = [f"topic.{number}" for number in range(130)]
    with Raw(web.port) as raw:
        raw.send(upgrade(f"/ws/?topics={','.join(names)}", f"Authorization: Bearer {stack.api_key}"))
        assert raw.head()[0] == 101
        assert len(raw.event("welcome")["topics"]) == 128
        assert raw.event()["code"] == "too_many_topics"
        raw.send(text({"action": "subscribe", "topic": "topic.129", "ref": 1}))
        error = raw.event()
        assert (error["code"], error["ref"]) == ("too_many_topics", 1)
        raw.send(text({"action": "subscribe", "topic": "topic.0", "ref": 2}))
        assert raw.event()["event"] == "subscribed", "it is there already"
        raw.send(text({"action": "unsubscribe", "topic": "topic.0"}))
        raw.send(text({"action": "subscribe", "topic": "topic.129", "ref": 3}))
        assert [raw.event()["event"] for _ in range(2)] == ["unsubscribed", "subscribed"]
        raw.send(text({"action": "subscribe", "topic": "topic.0"}))
        assert raw.event()["code"] == "too_many_topics"


# --- Who comes in ---------------------------------------------------------------------------------


def _refused(web: Web, credential: str, status: int, code: str) -> None:
    """All three ways are refused by HTTP, with the time after which to come back."""
    headers = {"Authorization": f"Bearer {credential}"}
    for path in ("/api/stream", "/api/poll"):
        response = http.get(web.url + path, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert int(response.headers["retry-after"]) >= 1
    with Raw(web.port) as raw:
        raw.send(upgrade("/ws/", f"Authorization: Bearer {credential}"))
        found, received = raw.head()
        assert found == status
        assert int(received["retry-after"]) >= 1
        assert received["content-type"] == "application/json"
        assert json.loads(raw.rest())["error"]["code"] == code


def test_a_user_has_so_many_connections_and_others_are_not_concerned(
    stack: Stack, small: Web, clients: ExitStack
) -> None:
    refused = Counted(small, "fanfare_refused_connections_total", 3, cause="user_full")
    alice = stack.token("alice")
    with live(small.port, alice) as first, live(small.port, alice), live(small.port, stack.token("bob")):
        _refused(small, alice, 429, "too_many_connections")
        first.reset()
        eventually(lambda: inside(small)["inside"] == 2, PATIENCE)
        clients.enter_context(live(small.port, alice)).reset()
    refused.check()
    for _ in range(4):
        clients.enter_context(live(small.port, stack.api_key))


def test_a_full_process_says_so_and_goes_on_serving(stack: Stack, small: Web, clients: ExitStack) -> None:
    refused = Counted(small, "fanfare_refused_connections_total", 3, cause="process_full")
    services = [clients.enter_context(live(small.port, stack.api_key, "all")) for _ in range(6)]
    _refused(small, stack.api_key, 503, "process_full")
    assert http.get(f"{small.url}/livez").status_code == 200
    with stack.client(small) as client:
        assert client.post("/api/notifications", json={"to": {"all": True}, "data": 1}).status_code == 202
    assert {service.event("message")["data"] for service in services} == {1}
    refused.check()


def test_a_rush_does_not_fill_a_process_beyond_its_limit(stack: Stack, small: Web, clients: ExitStack) -> None:
    rush = [clients.enter_context(Raw(small.port)) for _ in range(25)]
    for raw in rush:
        raw.send(upgrade("/ws/?stuck=0.2", f"Authorization: Bearer {stack.api_key}"))
    answers = [raw.head()[0] for raw in rush]
    assert (answers.count(101), answers.count(503)) == (6, 19)
    assert inside(small)["inside"] == 6


def test_handshakes_that_come_too_fast_are_asked_to_come_back(stack: Stack, small: Web, clients: ExitStack) -> None:
    before = metric(small, "fanfare_refused_connections_total", cause="handshake_rate")
    time.sleep(2)  # Whatever came before: twice 30 are free again.
    rush = [clients.enter_context(Raw(small.port)) for _ in range(200)]
    for number, raw in enumerate(rush):
        raw.send(request("/api/poll") if number % 2 else upgrade("/ws/"))
    answers = [raw.head() for raw in rush]
    refused = [headers for status, headers in answers if status == 503]
    assert {status for status, _ in answers} == {101, 401, 503}
    assert 20 <= len(refused) <= 150, "twice 30 are let in at once, and 30 a second; the fixture took some"
    assert all(int(headers["retry-after"]) >= 1 for headers in refused)
    assert metric(small, "fanfare_refused_connections_total", cause="handshake_rate") == before + len(refused)


def test_who_cannot_be_looked_up_in_time_is_asked_to_come_back(stack: Stack, web: Web) -> None:
    assert admission.AUTHENTICATE_SECONDS == 10
    refused = Counted(web, "fanfare_refused_connections_total", 3, cause="unavailable")
    for head in (upgrade("/ws/?stuck=2"), request("/api/stream?stuck=2"), request("/api/poll?stuck=2")):
        with Raw(web.port) as raw:
            began = time.monotonic()
            raw.send(head[:-2] + f"Authorization: Bearer {stack.api_key}\r\n\r\n".encode())
            status, headers = raw.head()
            assert (status, headers["retry-after"]) == (503, "2")
            assert time.monotonic() - began < 1.9
    refused.check()


@pytest.mark.parametrize("start", [b"", b"G", request("/api/poll")[:-2], request("/livez") + b"GET /"])
def test_a_head_that_is_not_sent_in_time_ends_the_connection(web: Web, start: bytes) -> None:
    assert uvicorn_protocol.HEADER_SECONDS == 10
    ended = Counted(web, "fanfare_refused_connections_total", cause="slow_head")
    with Raw(web.port) as raw:
        began = time.monotonic()
        raw.send(start)
        trickle = threading.Event()

        def drip() -> None:
            with suppress(OSError):
                while not trickle.wait(0.2) and start.endswith(b"\r\n"):
                    raw.send(b"X: y\r\n")

        dripping = threading.Thread(target=drip)
        dripping.start()
        raw.rest()
        assert 0.9 < time.monotonic() - began < 6
        trickle.set()
        dripping.join(PATIENCE)
    ended.check()


def test_a_head_without_end_is_refused_and_not_kept(web: Web) -> None:
    refused = Counted(web, "fanfare_refused_connections_total", 2, cause="large_head")
    before = memory(web)
    for start, filler in ((b"GET /", b"x" * 65536), (b"GET / HTTP/1.1\r\n", b"X-Filler: yes\r\n" * 4096)):
        with Raw(web.port) as raw:
            raw.send(start)
            with suppress(OSError):
                for _ in range(800):  # 50 MB, if it were taken.
                    raw.send(filler)
            assert raw.rest()[:12] in (b"HTTP/1.1 431", b"")
    assert memory(web) - before < 10e6
    refused.check()


# --- Who does not read ----------------------------------------------------------------------------


def _flood(stack: Stack, topic: str, batches: int, size: int = 50_000, count: int = 40) -> None:
    with stack.client() as client:
        for batch in range(batches):
            messages = [
                {"to": {"topic": topic}, "data": f"{batch * count + number} " + "x" * size} for number in range(count)
            ]
            reply = client.post("/api/notifications/batch", json={"notifications": messages}, timeout=60)
            assert reply.status_code == 202


def _number(event: dict[str, Any]) -> int:
    return int(event["data"].split()[0])


async def test_slow_readers_are_sent_away_and_nobody_else_notices(stack: Stack, web: Web, clients: ExitStack) -> None:
    assert connections.SEND_TIMEOUT == 10
    slow = Counted(web, "fanfare_drops_total", 10, cause="slow_reader")
    closes = Counted(web, "fanfare_closes_total", 10, code="4408")
    _flood(stack, "warm", 1)
    before = memory(web)
    for _ in range(10):
        clients.enter_context(await asyncio.to_thread(live, web.port, stack.api_key, "topic.flood", small=True))
    async with dial(web, stack.api_key, topics="topic.flood") as good:
        flooding = asyncio.create_task(asyncio.to_thread(_flood, stack, "flood", 6))
        lags = []
        for number in range(240):
            message = await good.next("message")
            assert _number(message) == number
            lags.append(message["offset"])
            good.events.clear()
            good._seen = 0
        await flooding
        await asyncio.to_thread(slow.check)
        await asyncio.to_thread(closes.check)
        # 12 MB came, of which each of the ten lacks 8 or more: a bounded part of it was kept, once for all.
        assert memory(web) - before < 80e6
        await asyncio.to_thread(eventually, lambda: inside(web)["inside"] == 1, PATIENCE)
        await asyncio.to_thread(eventually, lambda: accepted(web) <= 2, PATIENCE)
        assert (await good.ask("pong", action="ping"))["statusCode"] == 200


def test_a_slow_reader_that_reads_on_gets_all_to_its_end_and_resumes_there(stack: Stack, web: Web) -> None:
    with live(web.port, stack.api_key, "topic.late", small=True) as late:
        closes = Counted(web, "fanfare_closes_total", code="4408")
        _flood(stack, "late", 6)
        closes.check()
        got = []
        late.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
        while (one := late.frame())[0] == TEXT:
            got.append(json.loads(one[1]))
        assert int.from_bytes(one[1][:2]) == 4408
    messages = [event for event in got if event["event"] == "message"]
    assert [_number(message) for message in messages] == list(range(len(messages)))
    epoch = next(event["epoch"] for event in got if event["event"] == "subscribed")
    with live(web.port, stack.api_key, "") as back:
        since = {"epoch": epoch, "offset": messages[-1]["offset"]}
        back.send(text({"action": "subscribe", "topic": "topic.late", "since": since, "ref": 1}))
        said = back.event("subscribed", "message")
        missed = 240 - len(messages)
        assert said["event"] == "message" if missed * 50_000 < MIB // 2 else not said["recovered"]


@pytest.mark.parametrize("path", ["/api/stream?topics=topic.deaf", "/api/poll?topics=topic.deaf"])
def test_a_stream_or_poll_that_is_not_read_is_ended_and_nothing_of_it_stays(
    stack: Stack, web: Web, clients: ExitStack, path: str
) -> None:
    headers = {"Authorization": f"Bearer {stack.api_key}"}
    if "poll" in path:
        path += "&since=" + http.get(web.url + path, headers=headers).json()["since"]
    for _ in range(5):
        raw = clients.enter_context(Raw(web.port, small=True))
        raw.send(request(path, f"Authorization: Bearer {stack.api_key}"))
    eventually(lambda: inside(web)["inside"] == 5, PATIENCE)
    _flood(stack, "deaf", 6)
    eventually(lambda: not inside(web)["inside"], PATIENCE)
    eventually(lambda: accepted(web) <= 1, PATIENCE, lambda: str(accepted(web)))
