"""static/fanfare.js without a WebSocket, in a real browser, against a server that does what no server should."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import OpenPage
from tests.clients.conftest import Start
from tests.clients.fake_http import Server, message, placed
from tests.clients.pages import ALICE, at, await_note, await_state, notes, start_client

pytestmark = pytest.mark.any_database
WAYS = ["stream", "poll"]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def start(server: Server, open_page: OpenPage) -> Start:
    """`start(*transports, **options)`: a page with the client, and with a clock that the test can turn on."""

    def start(*transports: str, **options: Any) -> Page:
        page = open_page(server.url)
        page.clock.install()
        start_client(page, options | ({"transports": list(transports)} if transports else {}))
        return page

    return start


def offsets(page: Page) -> list[int]:
    return [one["offset"] for one in notes(page, "message")]


# --- Streams --------------------------------------------------------------------------------------


def test_a_stream_goes_on_from_the_clients_own_positions_and_no_token_is_in_a_url(start: Start, server: Server) -> None:
    page = start("stream")
    first = server.accept("stream")
    assert ("topics" in first.query, first.since, first.headers["Authorization"]) == (False, {}, "Bearer token-1")
    first.welcome(**{ALICE: at(3), "all": at(0, None)})
    first.send(message(4))
    assert await_note(page, "message")[0]["offset"] == 4  # No place came with it.
    first.send({"event": "closed", "code": 4408, "reason": "slow reader"})

    second = server.accept("stream")
    assert (second.query["topics"], second.headers["Authorization"]) == (f"{ALICE},all", "Bearer token-2")
    assert second.since == {ALICE: ["e1", 4], "all": [None, 0]}
    second.start()
    second.send({"event": "welcome", "connectionId": "c", "user": "alice", "topics": {}}, message(4), message(5))
    second.send({"event": "subscribed", "topic": ALICE, **at(7), "recovered": True}, place={ALICE: ["e1", 7]})
    await_state(page, "online", "stream")
    assert offsets(page) == [4, 5]
    offline = next(state for state in notes(page, "state") if state["state"] == "offline")
    assert (offline["code"], offline["reason"], offline["transport"]) == (4408, "slow reader", "stream")
    assert not any("token" in path for path in server.seen)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_stream_may_be_cut_anywhere_and_lines_may_end_in_any_way(start: Start, server: Server, end: str) -> None:
    page = start("stream", topics=[ALICE, "topic.größe"])
    stream = server.accept("stream")
    assert stream.query["topics"] == f"{ALICE},topic.größe"
    welcome = {"event": "welcome", "topics": {ALICE: at(0), "topic.größe": at(0)}}
    place = placed({ALICE: ["e1", 0], "topic.größe": ["e1", 1]}).decode()
    lines = [": hello", "event: ignored", f"data: {json.dumps(welcome)}", "", f"id: {place}", "", ":", "", "retry: 1"]
    first = json.dumps(message(1, data="Grüße\u2028🎺"), ensure_ascii=False)
    lines += [f"data:{first}", "", "data: {", "data: }", ""]
    lines += [f"data: {json.dumps(message(2))}", f"id: {place}", "", "nonsense", "data: unfinished"]
    stream.start()
    for byte in end.join(lines).encode():
        stream.write(bytes([byte]))
    assert [one["data"] for one in await_note(page, "message", 2)] == ["Grüße\u2028🎺", 2]
    stream.over.set()
    assert server.accept("stream").since == {ALICE: ["e1", 2], "topic.größe": ["e1", 1]}


def test_an_endless_line_is_cut_off_and_nonsense_does_not_throw(start: Start, server: Server) -> None:
    page = start("stream", topics=[ALICE])
    stream = server.accept("stream")
    stream.welcome(**{ALICE: at(0)})
    values: tuple[Any, ...] = (None, 7, "text", [], {}, {"event": {"toString": 1}}, {"event": "closing"}, True)
    for value in values:
        stream.write(b"data: %s\n\n" % json.dumps(value).encode())
        for event in ("welcome", "message", "reset", "subscribed", "error", "recalled", "unsubscribed", "ok"):
            fields = ("topic", "topics", "offset", "id", "ref", "code", "message", "epoch")
            stream.send({"event": event}, {"event": event, **dict.fromkeys(fields, value)})
    for text in (
        b"",
        b"7",
        b"AAAA",
        b"\xff\xfe",
        placed({ALICE: [1, "x"]}),
        placed({ALICE: []}),
        placed({}),
        b"W10",
        b"bnVsbA",
    ):
        stream.write(b"id: %s\n\ndata: {]\n\ndata\n\nid\n\n" % text)
    stream.send(message(1, data="still here"))
    assert "still here" in [one["data"] for one in await_note(page, "message")]
    assert page.evaluate("client.state.state") == "online"
    page.evaluate("Math.random = () => 1000")
    try:
        for _ in range(64):
            stream.write(b"x" * 100_000)
    except OSError:
        pass
    assert await_state(page, "offline")["reason"] == "The server says too much at once."


def test_a_silent_stream_is_asked_for_anew_and_left_when_nothing_comes(start: Start, server: Server) -> None:
    page = start("stream", topics={ALICE: at(1)})
    first = server.accept("stream")
    first.welcome()
    await_state(page, "online")
    page.clock.fast_forward(25_000)
    first.send(message(2))
    await_note(page, "message")
    page.clock.fast_forward(10_000)  # It has been heard of only now.
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert server.nobody_comes(0.2)
    page.clock.fast_forward(31_000)
    first.wait_left()
    server.accept("stream")
    assert page.evaluate("client.state.state") == "online"
    page.evaluate("Math.random = () => 1000")  # So that it stays offline.
    page.clock.fast_forward(10_500)
    assert await_state(page, "offline")["reason"] == "The server has gone silent."


# --- Polls ----------------------------------------------------------------------------------------


def test_the_first_poll_tells_the_place_and_the_next_ones_wait_from_there(start: Start, server: Server) -> None:
    page = start("poll")
    first = server.accept("poll")
    assert ("topics" in first.query, first.query["wait"], first.since) == (False, "0", {})
    first.answer(message(4), message(5), place={ALICE: ["e1", 5], "all": [None, 0]})  # They came in just now.
    second = server.accept("poll")
    assert (second.query["topics"], second.query["wait"]) == (f"{ALICE},all", "25")
    assert second.since == {ALICE: ["e1", 5], "all": [None, 0]}
    named = {"event": "subscribed", "topic": "all", **at(0, "n"), "recovered": True}
    second.answer(named, message(1, "all"), message(5), place={ALICE: ["e1", 9], "all": ["n", 1]})
    third = server.accept("poll")
    assert third.since == {ALICE: ["e1", 9], "all": ["n", 1]}
    third.answer(message(10), {"event": "closed", "code": 1012, "reason": "restart"}, place={ALICE: ["e1", 10]})
    fourth = server.accept("poll")
    assert (fourth.query["wait"], fourth.since) == ("0", {ALICE: ["e1", 10], "all": ["n", 1]})
    assert offsets(page) == [4, 5, 1, 10]
    assert not any("token" in path for path in server.seen)


def test_polls_that_are_answered_at_once_are_not_repeated_at_once(start: Start, server: Server) -> None:
    start("poll", topics={ALICE: at(1)})
    deadline, count = time.monotonic() + 1, 0
    while time.monotonic() < deadline:
        server.accept("poll").answer(place={ALICE: ["e1", 1]})
        count += 1
    assert count <= 11


def test_answers_that_are_none_do_not_throw_and_are_asked_for_again(start: Start, server: Server) -> None:
    page = start("poll", topics={ALICE: at(1)})
    bad = [b"", b"<html>", b"\xff", b"null", b"7", b"[]", b"{}", b'{"events": 7, "since": "e30"}']
    bad += [b'{"events": [], "since": 7}', b'{"events": [], "since": "bnVsbA"}', b'{"events": [], "since": "W10"}']
    for number, body in enumerate(bad[:-1]):
        server.accept("poll").reply(200, body)
        page.wait_for_function("n => notes.filter(([, d]) => d.state === 'offline').length > n", arg=number)
        page.evaluate("dispatchEvent(new Event('online'))")
    odd: list[Any] = [None, 7, "x", [], {"event": "message", "offset": {}, "topic": []}, {"event": "reset"}]
    server.accept("poll").answer(*odd, place={"topic.other": ["x", 7], "topic.odd": ["x", -7]})
    server.accept("poll").answer(message(2), place={})
    await_note(page, "message")
    assert (notes(page, "error"), notes(page, "reset")) == ([], [])


# --- Both -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_other_topics_are_another_request_and_what_is_refused_is_told(start: Start, server: Server, way: str) -> None:
    page = start(way, topics={ALICE: at(1)})
    first = server.accept(way)
    first.welcome(**{ALICE: at(1)})
    await_state(page, "online")
    waiting = first if way == "stream" else server.accept(way)
    page.evaluate(
        """window.asked = ["topic.news", "topic.secret"].map((topic) => ask("subscribe", topic));
        asked.push(ask("subscribe", "topic.old", {epoch: "o", offset: 2}), ask("subscribe", "user.alice"));"""
    )
    waiting.wait_left()
    second = server.accept(way)
    assert second.query["topics"] == f"{ALICE},topic.news,topic.secret,topic.old"
    assert second.query["wait"] == "0"
    assert second.since == {ALICE: ["e1", 1], "topic.old": ["o", 2]}
    lost = {"event": "subscribed", "topic": "topic.old", **at(9, "o"), "recovered": False}
    refusal = {"event": "error", "code": "denied", "message": "Not yours."}
    place: dict[str, Any] = {ALICE: ["e1", 2], "topic.news": ["n", 5], "topic.old": ["o", 9]}
    if way == "stream":
        second.start()
        fresh = {"event": "welcome", "topics": {"topic.news": at(4, "n")}}
        known = {"event": "subscribed", "topic": ALICE, **at(2), "recovered": True}
        second.send(fresh, message(2), known, lost, refusal, message(5, "topic.news"), place=place)
    else:
        second.answer(message(2), lost, refusal, message(5, "topic.news"), place=place)
    answers = page.evaluate("Promise.all(asked)")
    assert [answer[0] for answer in answers] == ["ok", "failed", "ok", "ok"]
    assert (answers[1][1], answers[2][1]["recovered"], answers[3][1]["recovered"]) == ("denied", False, True)
    assert offsets(page) == [2, 5]
    assert notes(page, "reset") == [{"topic": "topic.old", **at(9, "o")}]
    waiting = second if way == "stream" else server.accept(way)
    assert page.evaluate("ask('unsubscribe', 'topic.old')") == [
        "ok",
        {"topic": "topic.old", "ref": "unsubscribe topic.old"},
    ]
    waiting.wait_left()
    assert server.accept(way).since == {ALICE: ["e1", 2], "topic.news": ["n", 5]}
    assert (notes(page, "error"), len(notes(page, "state"))) == ([], 2)


@pytest.mark.parametrize("way", WAYS)
def test_when_all_topics_are_refused_it_stays_and_says_so(start: Start, server: Server, way: str) -> None:
    page = start(way, topics={"topic.secret": at(1)})
    server.accept(way).refuse(403, "denied", "Not yours.")
    assert await_note(page, "error") == [{"code": "denied", "message": "Not yours."}]
    assert server.accept(way).query["topics"] == ""
    assert page.evaluate("client.state.state") == "online"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("status", "code", "message", "state", "close_code"),
    [
        (401, "token_expired", "This token has expired: get a fresh one.", "offline", 4401),
        (401, "unauthenticated", "This API key is unknown, expired or revoked.", "closed", 4501),
        (403, "scope_missing", "No.", "closed", 4501),
        (400, "malformed", "No.", "closed", 4500),
        (503, "draining", "Come back.", "offline", 4410),
        (429, "too_many_connections", "Too many.", "offline", 4410),
        (500, "internal_error", "Oh.", "offline", 0),
    ],
)
def test_a_refusal_is_what_a_close_code_is_on_a_socket(
    start: Start, server: Server, way: str, status: int, code: str, message: str, state: str, close_code: int
) -> None:
    page = start(way)
    server.accept(way).refuse(status, code, message, Retry_After="7")
    found = await_state(page, state)
    if close_code:
        assert found["reason"] == message
    assert (found["code"], found["transport"]) == (close_code, way)
    if state == "closed":
        page.clock.fast_forward(60_000)
        assert server.nobody_comes(0.2)
    else:
        assert found["retryAt"] - page.evaluate("Date.now()") > 5000
        page.clock.fast_forward(8000)
        assert server.accept(way).headers["Authorization"] == "Bearer token-2"


@pytest.mark.parametrize("way", WAYS)
def test_a_publish_is_repeated_under_one_key_until_it_is_answered(start: Start, server: Server, way: str) -> None:
    page = start(way, topics={ALICE: at(1)})
    link = server.accept(way)
    link.welcome(**{ALICE: at(1)})
    await_state(page, "online")
    if way == "poll":
        link = server.accept(way)
    page.evaluate("Math.random = () => 0")
    page.evaluate("void (window.asked = ask('publish', 'topic.a.b', {n: 1}, 'note'))")
    first = server.accept("notifications")
    first.over.set()  # Without an answer.
    attempts = [first]
    for status, code, text in [
        (503, "busy", "Later."),
        (409, "idempotency_in_progress", "It runs."),
        (502, "", ""),
        (401, "token_expired", "This token has expired: get a fresh one."),
    ]:
        attempts.append(server.accept("notifications"))
        attempts[-1].refuse(status, code, text)
    attempts.append(server.accept("notifications"))
    link.over.set()  # Nor does it depend on the connection.
    page.wait_for_function("notes.some(([name, detail]) => name === 'state' && detail.state === 'offline')")
    attempts[-1].reply(202, {"id": "m1", "topic": "topic.a.b", "epoch": "e", "offset": 1})
    assert page.evaluate("asked")[1]["offset"] == 1
    assert {(one.method, one.body, one.headers["Content-Type"]) for one in attempts} == {
        ("POST", b'{"to":{"topic":"a.b"},"data":{"n":1},"type":"note"}', "application/json")
    }
    (key,) = {one.headers["Idempotency-Key"] for one in attempts}
    assert len(key) > 20
    assert [one.headers["Authorization"] for one in attempts] == ["Bearer token-1"] * 5 + ["Bearer token-2"]
    assert notes(page, "error") == []


@pytest.mark.parametrize("way", ["stream", "poll"])
def test_what_was_shown_is_acknowledged_along_the_connection(start: Start, server: Server, way: str) -> None:
    page = start(way)
    server.accept(way).welcome(**{ALICE: at(1)})
    await_state(page, "online")
    if way == "poll":
        server.accept(way)
    page.evaluate("client.ack(['id-1', 'id-2'])")
    for _ in range(2):
        sent = server.accept("inbox/ack")
        assert (sent.method, json.loads(sent.body)) == ("POST", {"ids": ["id-1", "id-2"]})
        sent.refuse(503, "busy")
    server.accept("inbox/ack").reply(200, {"acknowledged": 2})
    page.evaluate("client.ack(['id-3'])")
    assert json.loads(server.accept("inbox/ack").body) == {"ids": ["id-3"]}


def test_a_publish_that_is_refused_says_why(start: Start, server: Server) -> None:
    page = start("stream", topics=[])
    server.accept("stream").welcome()
    await_state(page, "online")
    page.evaluate("void (window.asked = [ask('publish', 'all', null), ask('publish', 'user.bob', 1)])")
    for _ in range(2):
        sent = server.accept("notifications")
        assert json.loads(sent.body) in ({"to": {"all": True}, "data": None}, {"to": {"user": "bob"}, "data": 1})
        sent.refuse(403, "denied")
    assert page.evaluate("Promise.all(asked)") == [["failed", "denied"]] * 2
    page.evaluate("void (window.asked = ask('publish', 'other.room', 1))")
    server.accept("notifications").refuse(400, "malformed")
    assert page.evaluate("asked") == ["failed", "malformed"]


# --- From one to the next -------------------------------------------------------------------------


def test_where_no_socket_passes_a_stream_is_next_then_a_poll_and_the_page_remembers(
    start: Start, server: Server
) -> None:
    page = start()
    server.accept_beyond("stream", "poll").answer(place={ALICE: ["e1", 1]})
    await_state(page, "online", "poll")
    ways = [state["transport"] for state in notes(page, "state") if state["state"] == "connecting"]
    assert ways == sorted(ways, key=["websocket", "stream", "poll"].index)
    assert min(ways.count("websocket"), ways.count("stream")) >= 2
    server.accept("poll")
    page.reload()
    start_client(page)
    server.accept("poll").answer(place={ALICE: ["e1", 1]})
    assert await_state(page, "online")["transport"] == "poll"


def test_a_server_that_is_away_is_no_reason_for_another_way(start: Start, server: Server) -> None:
    server.alive = False
    page = start()
    page.evaluate("Math.random = () => 0")
    await_note(page, "state", 12)
    assert {state["transport"] for state in notes(page, "state")} == {"websocket"}
    assert server.nobody_comes(0)
    server.alive = True
    server.accept("stream")


def test_a_stream_that_a_proxy_holds_back_is_given_up_for_a_poll(start: Start, server: Server) -> None:
    page = start("stream", "poll")
    page.evaluate("Math.random = () => 4")  # So that it stays offline until the clock is turned on.
    for _ in range(2):
        server.accept("stream").start()
        page.clock.fast_forward(10_500)
        page.wait_for_function("client.state.state === 'offline'")
        page.evaluate("fetch('/livez')")  # So that the client's own question has been answered, too.
        page.clock.fast_forward(5000)
    server.accept("poll").answer(place={ALICE: ["e1", 1]})
    await_state(page, "online", "poll")


def test_a_better_way_is_tried_beside_the_one_that_works_and_taken_when_it_answers(
    start: Start, server: Server
) -> None:
    page = start("stream", "poll", topics={ALICE: at(1)})
    server.accept_beyond("stream", "poll").answer(place={ALICE: ["e1", 1]})
    server.accept("poll").answer(place={ALICE: ["e1", 1]})
    waiting = server.accept("poll")
    page.clock.fast_forward(15_500)
    barred = server.accept("stream")
    barred.start()
    page.clock.fast_forward(10_500)
    barred.wait_left()
    assert page.evaluate("client.state.transport") == "poll"
    for _ in range(2):
        waiting.answer(place={ALICE: ["e1", 1]})
        waiting = server.accept("poll")
        page.clock.fast_forward(15_500)
    better = server.accept("stream")
    assert better.query["topics"] == ""
    waiting.answer(message(2), place={ALICE: ["e1", 2]})
    waiting = server.accept("poll")
    better.welcome()
    waiting.wait_left()
    stream = server.accept("stream")
    assert stream.since == {ALICE: ["e1", 2]}
    stream.start()
    stream.send(message(3))
    await_note(page, "message", 2)
    assert offsets(page) == [2, 3]
    assert [(s["state"], s["transport"]) for s in notes(page, "state")][-2:] == [
        ("online", "poll"),
        ("online", "stream"),
    ]
    page.evaluate("client.close()")
    stream.wait_left()


def test_it_works_where_a_page_may_not_remember(open_page: OpenPage, server: Server) -> None:
    page = open_page(server.url)
    page.evaluate("Object.defineProperty(window, 'sessionStorage', {get() { throw new Error('not here'); }})")
    start_client(page, {"transports": ["poll"]})
    server.accept("poll").answer(place={ALICE: ["e1", 1]})
    await_state(page, "online", "poll")
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2].strip("/")))):
        pass
    assert (
        page.evaluate("""import("/fanfare.js").then(({connect}) => connect({transports: ["pigeon"]}))
        .catch((error) => error.name)""")
        == "TypeError"
    )
