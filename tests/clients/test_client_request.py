"""client.request() against a server that is busy, slow, lying or no server of ours; and hostile answers to the rest."""

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.browser import OpenPage
from tests.clients.conftest import Start
from tests.clients.fake_http import Exchange, Server, message
from tests.clients.fake_server import Fake
from tests.clients.pages import ALICE, at, await_note, await_state, notes, start_client

pytestmark = pytest.mark.any_database


@pytest.fixture
def http() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def page(http: Server, open_page: OpenPage) -> Page:
    """A page whose client is connected, by a stream that says nothing more."""
    page = open_page(http.url)
    page.clock.install()
    start_client(page, {"transports": ["stream"], "tokens": ["first", "second"]})
    http.accept("stream").welcome(**{ALICE: at(1)})
    await_state(page, "online")
    page.evaluate("Math.random = () => 0")
    return page


def ask(page: Page, path: str, **options: Any) -> None:
    page.evaluate("([path, options]) => void (window.asked = ask('request', path, options))", [path, options])


def test_a_page_of_the_inbox_is_asked_for_with_the_clients_token(http: Server, page: Page) -> None:
    ask(page, "inbox?limit=2")
    asked = http.accept("inbox")
    assert (asked.method, asked.query, asked.body) == ("GET", {"limit": "2"}, b"")
    assert asked.headers["Authorization"] == "Bearer first"
    asked.reply(200, {"messages": [], "next": None})
    assert page.evaluate("asked") == ["ok", {"messages": [], "next": None}]


def test_a_body_is_json_and_an_answer_without_one_is_null(http: Server, page: Page) -> None:
    ask(page, "users/alice/preferences", method="PUT", body={"*": "inbox"})
    asked = http.accept("users/alice/preferences")
    assert (asked.method, json.loads(asked.body)) == ("PUT", {"*": "inbox"})
    asked.start(204)
    asked.over.set()
    assert page.evaluate("asked") == ["ok", None]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_it_comes_again_when_the_server_says_so_under_one_key(http: Server, page: Page, method: str) -> None:
    ask(page, "tasks", method=method)
    first = http.accept("tasks")
    first.refuse(503, "busy", Retry_After="2")
    page.wait_for_timeout(200)
    page.clock.fast_forward(1_000)
    assert http.nobody_comes(0.3)
    page.clock.fast_forward(2_000)
    second = http.accept("tasks")
    second.refuse(429, "rate_limited")
    third = http.accept("tasks")
    third.reply(200, {})
    assert page.evaluate("asked") == ["ok", {}]
    assert len({one.headers["Idempotency-Key"] for one in (first, second, third)}) == 1


def test_it_gets_a_fresh_token_for_one_that_has_expired(http: Server, page: Page) -> None:
    ask(page, "inbox")
    http.accept("inbox").refuse(401, "token_expired")
    asked = http.accept("inbox")
    assert asked.headers["Authorization"] == "Bearer second"
    asked.reply(200, {})
    assert page.evaluate("asked")[0] == "ok"


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "unauthenticated"), (403, "denied"), (404, "not_found"), (409, "conflict"), (422, "invalid")],
)
def test_a_refusal_is_told_at_once(http: Server, page: Page, status: int, code: str) -> None:
    ask(page, "inbox")
    http.accept("inbox").refuse(status, code)
    assert page.evaluate("asked") == ["failed", code]
    assert page.evaluate("client.state.state") == "online"


def test_after_a_silence_only_what_is_safe_is_said_again(http: Server, page: Page) -> None:
    ask(page, "leaderboards/x/alice", method="POST", body={"score": 1})
    http.accept("leaderboards/x/alice").over.set()
    assert page.evaluate("asked") == ["failed", "no_connection"]
    ask(page, "leaderboards/x/alice")
    http.accept("leaderboards/x/alice").over.set()
    http.accept("leaderboards/x/alice").reply(200, {"rank": 0})
    assert page.evaluate("asked") == ["ok", {"rank": 0}]


def test_it_gives_up_after_half_a_minute(http: Server, page: Page) -> None:
    ask(page, "inbox")
    http.accept("inbox").refuse(503, "busy", Retry_After="40")
    assert page.evaluate("asked") == ["failed", "busy"]


def test_after_close_it_is_refused(http: Server, page: Page) -> None:
    page.evaluate("client.close()")
    ask(page, "inbox")
    assert page.evaluate("asked") == ["failed", "closed"]


LIES: list[tuple[int, bytes]] = [
    (200, b"<!doctype html><title>Sign in</title>"),
    (200, b"{"),
    (200, b"\xff\xfe"),
    (403, b"<html>The proxy does not like this."),
    (404, b"null"),
    (500, b'{"error": 7}'),
    (502, b'{"error": {"code": ["x"], "message": {}}}'),
    (400, b'{"error": {"code": "", "message": null}}'),
]


@pytest.mark.parametrize(("status", "body"), LIES)
def test_what_is_no_answer_of_ours_is_an_error_with_a_code(http: Server, page: Page, status: int, body: bytes) -> None:
    ask(page, "things", method="POST")
    http.accept("things").reply(status, body)
    assert page.evaluate("asked") == ["failed", "no_connection"]


def flood(exchange: Exchange, content_type: str) -> None:
    """An answer without an end."""
    exchange.start(content_type=content_type)
    try:
        while True:
            exchange.write(b" " * 65_536)
    except OSError:
        exchange.over.set()


def test_an_endless_answer_is_cut_off(http: Server, page: Page) -> None:
    ask(page, "inbox", method="POST")
    flood(http.accept("inbox"), "application/json")
    assert page.evaluate("asked") == ["failed", "no_connection"]


def test_an_endless_refusal_is_cut_off(open_page: OpenPage, http: Server) -> None:
    page = open_page(http.url)
    start_client(page, {"transports": ["poll"]})
    page.evaluate("Math.random = () => 1000")
    flood(http.accept("poll"), "application/json")
    assert await_state(page, "offline")["reason"] == "The server says too much at once."


@pytest.mark.parametrize("way", ["stream", "poll"])
def test_a_loop_of_redirects_is_one_more_failure(open_page: OpenPage, http: Server, way: str) -> None:
    page = open_page(http.url)
    start_client(page, {"transports": [way]})
    page.evaluate("Math.random = () => 0")
    for _ in range(25):
        turn = http.accept(way)
        turn.start(302, Location=f"/api/{way}?again")
        turn.over.set()
        if any(state["state"] == "offline" for state in notes(page, "state")):
            break
    await_note(page, "state", 2)
    while True:
        again = http.accept(way)
        if "again" not in again.query:
            break
        again.start(302, Location=f"/api/{way}?again")
        again.over.set()
    again.welcome(**{ALICE: at(1)})
    await_state(page, "online", way)


def test_a_server_that_is_slow_with_each_byte_is_waited_for(http: Server, page: Page) -> None:
    ask(page, "inbox")
    asked = http.accept("inbox")
    asked.start(content_type="application/json")
    for byte in b'{"messages": []}':
        asked.write(bytes([byte]))
        page.wait_for_timeout(20)
    asked.over.set()
    assert page.evaluate("asked") == ["ok", {"messages": []}]


# --- A socket that is no friend -------------------------------------------------------------------


def test_a_huge_frame_neither_throws_nor_stops_what_follows(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    connection.message(1, data="x" * 20_000_000)
    connection.socket.send("[" * 2_000_000)
    connection.socket.send("x" * 20_000_000)
    connection.message(2)
    assert [len(str(one["data"])) for one in await_note(page, "message", 2)] == [20_000_000, 1]
    assert page.evaluate("client.state.state") == "online"


def test_thousands_of_topics_that_nobody_asked_for_are_not_kept(start: Start, server: Fake) -> None:
    page = start()
    connection = server.accept()
    connection.welcome(**{f"topic.{number}": at(0) for number in range(5_000)})
    await_state(page, "online")
    for number in range(5_000, 7_000):
        connection.send(event="subscribed", topic=f"topic.{number}", **at(1), recovered=True)
        connection.send(event="reset", topic=f"topic.{number}", **at(1))
    connection.message(1, "topic.1")
    await_note(page, "message")
    connection.close(1012)
    second = server.accept()
    second.welcome()
    second.socket.send("{}")
    for _ in range(1_000):
        assert int(second.receive()["topic"].partition(".")[2]) < 1_000
    with pytest.raises(TimeoutError):
        second.socket.recv(0.5)


def test_a_server_that_sends_no_http_at_all_is_left(open_page: OpenPage, server: Fake) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            while True:
                try:
                    end, _ = listener.accept()
                    end.sendall(b"220 mail.example ESMTP\r\n")
                    end.close()
                except OSError:
                    return

        threading.Thread(target=talk, daemon=True).start()
        page = open_page(server.url)
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/ws/"
        start_client(page, {"url": url})
        await_note(page, "state", 4)
        assert {state["state"] for state in notes(page, "state")} == {"connecting", "offline"}
        page.evaluate("client.close()")


def test_more_than_a_stream_may_say_in_one_event_is_cut_off(http: Server, page: Page) -> None:
    page.evaluate("client.close()")
    start_client(page, {"transports": ["stream"], "topics": {ALICE: at(1)}})
    stream = http.accept("stream")
    stream.welcome(**{ALICE: at(1)})
    stream.send(message(2))
    await_note(page, "message")
    page.evaluate("Math.random = () => 1000")
    try:
        for _ in range(200):
            stream.write(b"data: " + b"x" * 65_536 + b"\n")  # Lines of one event that never ends.
    except OSError:
        pass
    assert await_state(page, "offline")["reason"] == "The server says too much at once."
