"""The client against servers that are slow, lie, or mean harm: always FanfareError, always in time."""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from fanfare_client import AsyncClient, Client, Connected, Disconnected, FanfareError, Message, Policy
from fanfare_client.conversation import BODY_MAX_BYTES
from fanfare_client.listening import FRAME_MAX_BYTES
from tests.clients.python.hostile import Hostile, HostileSocket, Say, answer, hang_up

SHORT = Policy(timeout=0.5, deadline=1.5, first_pause=0.01, longest_pause=0.02)
USER: dict[str, Any] = {
    "id": "ann",
    "account": None,
    "name": "",
    "attributes": {},
    "created_at": "2026-01-31T12:00:00Z",
}
OK = b"HTTP/1.1 200 OK\r\n"
Trick = Callable[[Hostile], Say]

TRICKS: dict[str, Trick] = {
    "says nothing": lambda server: server.forever(b"", b"", 0.1),
    "drips headers": lambda server: server.forever(OK + b"x-long: ", b"a", 0.05),
    "never ends its body": lambda server: server.forever(OK + b"\r\n", b" ", 0.01),
    "drips a long body": lambda server: server.forever(OK + b"content-length: 1000000\r\n\r\n[", b" ", 0.05),
    "chunks for ever": lambda server: server.forever(OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.01),
    "floods": lambda server: server.forever(OK + b"\r\n", b" " * 2**20, 0.0),
    "hangs up": lambda _server: hang_up,
    "hangs up halfway": lambda _server: lambda peer: peer.sendall(OK + b"content-length: 99\r\n\r\n{"),
    "is no HTTP": lambda _server: lambda peer: peer.sendall(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "has endless headers": lambda server: server.forever(OK, b"x: " + b"a" * 4096 + b"\r\n", 0.0),
    "redirects to itself": lambda server: answer(302, b"", location=server.url + "/api/users/ann"),
    "redirects elsewhere": lambda _server: answer(307, b"", location="http://127.0.0.1:1/steal"),
    "answers HTML": lambda _server: answer(200, b"<!doctype html><title>Welcome</title>", content_type="text/html"),
    "answers an HTML error": lambda _server: answer(404, b"<h1>nginx</h1>"),
    "answers nothing": lambda _server: answer(200, b""),
    "answers a list": lambda _server: answer(200, []),
    "answers the wrong types": lambda _server: answer(200, {"id": 7, "name": None, "attributes": []}),
    "answers no time": lambda _server: answer(200, USER | {"created_at": "yesterday"}),
    "answers broken UTF-8": lambda _server: answer(200, b'{"id": "\xff\xfe"}'),
    "answers compressed": lambda _server: answer(200, b"\x1f\x8b\x08garbage", content_encoding="gzip"),
    "nests deeply": lambda _server: answer(200, b'{"id":' * 100_000 + b"1" + b"}" * 100_000),
    "nests deeply in a field": lambda _server: answer(200, b'{"attributes":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "lies about errors": lambda _server: answer(400, {"error": "no"}),
    "lies deeper about errors": lambda _server: answer(400, {"error": {"code": [], "message": {}}}),
}


def in_vain(trick: str) -> FanfareError:
    with Hostile() as server:
        server.answers = (TRICKS[trick](server),)
        began = time.monotonic()
        with Client(server.url, "k", policy=SHORT) as client, pytest.raises(FanfareError) as failed:
            client.users.get("ann")
        assert time.monotonic() - began < SHORT.deadline + 1
        return failed.value


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_ends_in_an_error_in_time(trick: str) -> None:
    error = in_vain(trick)
    assert error.code in ("no_answer", "bad_reply")
    assert error.message
    assert len(str(error)) < 1000


@pytest.mark.parametrize("trick", TRICKS)
async def test_likewise_with_asyncio(trick: str) -> None:
    with Hostile() as server:
        server.answers = (TRICKS[trick](server),)
        async with asyncio.timeout(SHORT.deadline + 1), AsyncClient(server.url, "k", policy=SHORT) as client:
            with pytest.raises(FanfareError) as failed:
                await client.users.get("ann")
        assert failed.value.code in ("no_answer", "bad_reply")


def test_a_redirect_takes_the_key_nowhere() -> None:
    with Hostile(answer(200, USER)) as elsewhere, Hostile(answer(302, b"", location=elsewhere.url)) as server:
        with Client(server.url, "secret", policy=SHORT) as client, pytest.raises(FanfareError, match="redirects"):
            client.users.get("ann")
        assert not elsewhere.requests


def test_a_redirect_takes_the_key_of_a_listener_nowhere() -> None:
    with HostileSocket(WELCOME) as elsewhere:
        there = f"ws{elsewhere.url.removeprefix('http')}/ws/"
        with Hostile(answer(302, b"", location=there)) as server, Client(server.url, "k").listen() as events:
            with pytest.raises(FanfareError, match="Redirects are not followed"):
                next(events)
        assert not elsewhere.connections


@pytest.mark.parametrize("key", ["", "fk_secret\n", "fk_secr\u00e9t", "fk_secret\r\nx: y", "fk secret"])
def test_a_key_that_no_header_can_carry_is_not_told(key: str) -> None:
    for make in (lambda: Client("http://127.0.0.1:1", key), lambda: Client("http://127.0.0.1:1", lambda: key).token()):
        with pytest.raises(ValueError, match="key or token") as refused:
            make()
        assert "secr" not in str(refused.value)


def test_a_password_in_the_url_is_not_told() -> None:
    with pytest.raises(ValueError, match="no user or password") as refused:
        Client("http://ann:hunter2@127.0.0.1:1", "k")
    assert "hunter2" not in str(refused.value)


def test_pages_that_go_round_in_a_circle_end() -> None:
    pages = [answer(200, {"presences": [], "next": name}) for name in ("b", "a", "b")]
    with Hostile(*pages) as server, Client(server.url, "k", policy=SHORT) as client:
        with pytest.raises(FanfareError, match="circle"):
            list(client.presence.of_account("acme"))


def test_a_body_has_a_bound() -> None:
    huge = answer(200, b" " * (BODY_MAX_BYTES + 1))
    with Hostile(huge) as server, pytest.raises(FanfareError, match="more than"):
        with Client(server.url, "k", policy=Policy(attempts=1)) as client:
            client.users.get("ann")


WELCOME = {"event": "welcome", "user": "ann", "topics": {"user.ann": {"epoch": "e", "offset": 0}}}


def message(offset: Any, **changes: Any) -> dict[str, Any]:
    shown = {"event": "message", "topic": "user.ann", "offset": offset, "id": str(offset), "type": "t", "data": offset}
    return shown | {"created_at": "2026-01-31T12:00:00Z"} | changes


BAD_FRAMES = {
    "no JSON": "<html>",
    "no object": "[1]",
    "no event": "{}",
    "another type": {"event": 7},
    "bytes": b"\xff\xff",
    "a deep nest": '{"event":"message","data":' + "[" * 100_000 + "]" * 100_000 + "}",
    "a message with a text for an offset": message("1"),
    "a message without a time": message(1, created_at=None),
    "a welcome of nonsense": {"event": "welcome", "topics": ["user.ann"]},
    "a position that is none": {"event": "reset", "topic": "user.ann", "offset": 10**30},
    "a frame that is too large": " " * (FRAME_MAX_BYTES + 1),
}


@pytest.mark.parametrize("name", BAD_FRAMES)
async def test_a_frame_that_is_not_fanfares_ends_the_listening(name: str) -> None:
    with HostileSocket(WELCOME, BAD_FRAMES[name]) as server:
        with Client(server.url, "k").listen() as events, pytest.raises(FanfareError) as failed:
            for _event in events:
                pass
        assert failed.value.code == "bad_reply"
        async with AsyncClient(server.url, "k") as client, asyncio.timeout(10):
            async with client.listen() as async_events:
                with pytest.raises(FanfareError, match="bad_reply"):
                    async for _event in async_events:
                        pass


def test_repetitions_unknown_events_and_recalled_messages_are_passed_over() -> None:
    recalled = {"event": "recalled", "topic": "user.ann", "offset": 4, "id": "4"}
    unknown = {"event": "tomorrow", "what": [1, 2]}
    frames = [WELCOME, message(1), message(1), unknown, message(2), message(1), recalled, message(4), message(5)]
    with HostileSocket(*frames) as server, Client(server.url, "k").listen() as events:
        assert isinstance(next(events), Connected)
        got = [next(events) for _ in range(4)]
    assert [event.data for event in got if isinstance(event, Message)] == [1, 2, 5]


def test_after_a_lost_connection_it_goes_on_from_where_it_was() -> None:
    with HostileSocket(WELCOME, message(1), message(2), None) as server:
        with Client(server.url, "k").listen() as events:
            first = [next(events) for _ in range(4)]
            assert isinstance(first[-1], Disconnected)
            assert (first[-1].code, first[-1].reason) == (1012, "restart")
            server.frames = [{"event": "welcome", "topics": {}}, message(2), message(3)]
            assert isinstance(next(events), Connected)
            following = next(events)
            assert isinstance(following, Message)
            assert following.data == 3
            since = {"epoch": "e", "offset": 2}
            while not server.got:
                time.sleep(0.01)
            assert server.got == [{"action": "subscribe", "topic": "user.ann", "ref": "user.ann", "since": since}]


def test_a_server_that_closes_again_and_again_is_asked_less_and_less() -> None:
    with HostileSocket(WELCOME, None) as server, Client(server.url, "k").listen() as events:
        bounds = []
        for event in events:
            if isinstance(event, Disconnected):
                bounds.append(event.pause)
                if len(bounds) == 4:
                    break
        assert all(pause <= 0.5 * 2**number for number, pause in enumerate(bounds))
        assert server.connections == 4


def test_a_listener_that_is_closed_while_it_connects_ends() -> None:
    def key() -> str:
        events.close()
        return "k"

    with HostileSocket(WELCOME) as server:
        events = Client(server.url, key).listen(["user.ann"])
        assert not list(events)


async def test_an_async_listener_that_is_closed_while_it_connects_ends() -> None:
    async def key() -> str:
        await events.close()
        return "k"

    with HostileSocket(WELCOME) as server:
        events = AsyncClient(server.url, key).listen(["user.ann"])
        assert not [event async for event in events]


def test_tokens_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with HostileSocket(WELCOME) as server, Client(server.url, "fk_secret").listen() as events:
        next(events)
    assert "fk_secret" not in caplog.text


@pytest.mark.parametrize("status", [200, 302, 400, 401, 404])
def test_a_handshake_that_is_refused_for_good_ends_the_listening(status: int) -> None:
    with Hostile(answer(status, b"<html>", location="/ws/")) as server:
        with Client(server.url, "k").listen() as events, pytest.raises(FanfareError) as failed:
            next(events)
    assert failed.value.code == "bad_reply"


def test_a_handshake_that_is_refused_for_now_is_repeated() -> None:
    body = json.dumps({"error": {"code": "draining", "message": "Later."}}).encode()
    with Hostile(answer(503, body, retry_after="2")) as server, Client(server.url, "k").listen() as events:
        lost = next(events)
        assert isinstance(lost, Disconnected)
        assert lost.reason == "Later."
        assert lost.pause >= 2
