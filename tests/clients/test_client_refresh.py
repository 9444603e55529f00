"""A fresh token before the old one ends: no connection is interrupted by it, by whatever way."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest

from tests.browser import OpenPage
from tests.clients.conftest import Start
from tests.clients.fake_http import Server, message
from tests.clients.fake_server import Fake
from tests.clients.pages import ALICE, at, await_note, await_state, notes, start_client
from tests.servers import Stack

KEY = "a-key-of-nobody-that-is-long-enough"


def token(life: float, issued: float = 0, **claims: Any) -> str:
    """A JWT that ends so many seconds from now."""
    now = int(time.time())
    return jwt.encode({"iss": "us", "sub": "alice", "iat": now + issued, "exp": now + life, **claims}, KEY)


def of_jwt(life: float) -> Any:
    return token(life)


def of_seconds(life: float) -> Any:
    return {"token": "opaque", "expires_at": int(time.time() + life)}


def of_text(life: float) -> Any:
    return {"token": "opaque", "expires_at": datetime.fromtimestamp(time.time() + life, UTC).isoformat()}


@pytest.mark.any_database
@pytest.mark.parametrize("made", [of_jwt, of_seconds, of_text])
def test_a_socket_goes_on_with_a_fresh_token_when_a_fifth_of_its_life_is_left(
    start: Start, server: Fake, made: Callable[[float], Any]
) -> None:
    page = start({"tokens": [made(25), {"token": "second", "expires_at": time.time() + 600}]})
    connection = server.accept()
    assert connection.subprotocols.startswith("fanfare.v1, bearer.")
    connection.welcome(**{ALICE: at(0)})
    await_state(page, "online")
    page.clock.fast_forward(17_000)
    connection.message(1)
    await_note(page, "message")  # Had it asked by now, the token would come first.
    page.clock.fast_forward(4_000)
    asked = connection.receive()
    assert (asked["action"], asked["token"]) == ("refresh", "second")
    connection.send(event="ok", ref=asked["ref"], expires_at=int(time.time() + 600))
    connection.message(2)
    await_note(page, "message", 2)
    assert [state["state"] for state in notes(page, "state")] == ["connecting", "online"]
    assert notes(page, "error") == []


@pytest.mark.any_database
def test_a_long_life_is_renewed_half_a_minute_before_its_end(start: Start, server: Fake) -> None:
    page = start({"tokens": [token(200), "second"]})
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    await_state(page, "online")
    for number in range(1, 17):  # Every ten seconds a sign of life.
        page.clock.fast_forward(10_000)
        connection.message(number)
        await_note(page, "message", number)
    page.clock.fast_forward(11_000)
    assert connection.receive()["token"] == "second"


@pytest.mark.any_database
@pytest.mark.parametrize("slow_by", [-7200, 7200])
def test_a_clock_that_is_wrong_by_hours_neither_renews_at_once_nor_never(
    start: Start, server: Fake, slow_by: int
) -> None:
    """The server's clock is ahead of or behind the page's by so much; the token lives 25 s."""
    tokens = [token(slow_by + 25, slow_by), token(slow_by + 25, slow_by, jti="2")]
    page = start({"tokens": tokens})
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    await_state(page, "online")
    page.clock.fast_forward(17_000)
    connection.message(1)
    await_note(page, "message")
    page.clock.fast_forward(4_000)
    assert connection.receive()["token"] == tokens[1]


@pytest.mark.any_database
def test_a_token_that_cannot_be_had_or_refreshed_now_is_asked_for_again(start: Start, server: Fake) -> None:
    page = start({"tokens": [token(25), None, "third", "fourth"]})
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    await_state(page, "online")
    page.clock.fast_forward(20_500)
    page.wait_for_function("failures === 1")
    page.clock.fast_forward(5_500)
    asked = connection.receive()
    assert asked["token"] == "third"
    connection.send(event="error", ref=asked["ref"], code="keys_unavailable", message="Later.")
    page.wait_for_timeout(100)
    page.clock.fast_forward(5_500)
    asked = connection.receive()
    assert asked["token"] == "fourth"
    connection.send(event="ok", ref=asked["ref"], expires_at=0)
    assert page.evaluate("client.state.state") == "online"


@pytest.mark.any_database
def test_a_token_of_another_user_makes_a_new_connection_to_their_topics(start: Start, server: Fake) -> None:
    page = start({"tokens": [token(25), token(600, sub="bob"), token(600, sub="bob")]})
    connection = server.accept()
    connection.welcome(**{ALICE: at(0), "all": at(3)})
    await_state(page, "online")
    page.clock.fast_forward(20_500)
    connection.wait_closed()  # Nothing of Bob's was said on the socket that is Alice's.
    second = server.accept()
    assert "topics=" not in second.path
    offline = next(state for state in notes(page, "state") if state["state"] == "offline")
    assert (offline["code"], offline["reason"]) == (4401, "Another user has come.")
    second.welcome(**{"user.bob": at(0), "all": at(3)})
    asked = second.receive()
    assert (asked["action"], asked["topic"]) == ("subscribe", "all")
    second.message(1, topic="user.bob")
    await_note(page, "message")


@pytest.mark.any_database
def test_a_refresh_that_the_server_refuses_makes_a_new_connection(start: Start, server: Fake) -> None:
    page = start({"tokens": [token(25), "second", "third"]})
    connection = server.accept()
    connection.welcome(**{ALICE: at(0)})
    await_state(page, "online")
    page.clock.fast_forward(20_500)
    asked = connection.receive()
    connection.send(event="error", ref=asked["ref"], code="wrong_user", message="Somebody else's.")
    assert server.accept().subprotocols.endswith("bearer.third")
    offline = next(state for state in notes(page, "state") if state["state"] == "offline")
    assert (offline["code"], offline["reason"]) == (4401, "Somebody else's.")


@pytest.mark.any_database
@pytest.mark.parametrize("way", ["stream", "poll"])
def test_without_a_socket_a_new_request_goes_on_with_it_from_the_same_place(open_page: OpenPage, way: str) -> None:
    server = Server()
    try:
        page = open_page(server.url)
        page.clock.install()
        start_client(page, {"transports": [way], "tokens": [token(25), "second"]})
        first = server.accept(way)
        first.welcome(**{ALICE: at(3)})
        await_state(page, "online")
        waiting = first if way == "stream" else server.accept(way)
        page.clock.fast_forward(20_500)
        waiting.wait_left()
        second = server.accept(way)
        assert (second.headers["Authorization"], second.since) == ("Bearer second", {ALICE: ["e1", 3]})
        if way == "stream":
            second.start()
            second.send({"event": "welcome", "topics": {}}, message(4), place={ALICE: ["e1", 4]})
        else:
            second.answer(message(4), place={ALICE: ["e1", 4]})
        assert await_note(page, "message")[0]["offset"] == 4
        assert [state["state"] for state in notes(page, "state")] == ["connecting", "online"]
    finally:
        server.stop()


@pytest.mark.parametrize("way", ["websocket", "stream", "poll"])
def test_the_real_server_keeps_a_client_beyond_its_first_token_by_every_way(
    open_page: OpenPage, stack: Stack, way: str
) -> None:
    page = open_page(f"{stack.web[0].url}/livez")
    user = f"long-{way}"
    tokens = [stack.token(user, ttl=8), stack.token(user, ttl=600)]
    start_client(page, {"transports": [way], "tokens": tokens}, "/static/fanfare.js")
    await_state(page, "online", way)
    first_ends = jwt.decode(tokens[0], options={"verify_signature": False})["exp"]
    sent = 0
    while time.time() < first_ends + 1.5:
        stack.send({"user": user}, sent)
        sent += 1
        page.wait_for_timeout(200)
    await_note(page, "message", sent)
    assert [one["data"] for one in notes(page, "message")] == list(range(sent))
    assert [state["state"] for state in notes(page, "state")] == ["connecting", "online"]
