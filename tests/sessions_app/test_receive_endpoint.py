"""Receiving over HTTP: at once or within the wait, and nothing is lost with a client that leaves."""

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import msgspec
import pytest

from sessions_app.offering import LENT_MAX
from tests.realtime.inside import APPLICATION, inside
from tests.realtime.raw import Raw, http, request
from tests.servers import Stack, eventually


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = TemporaryDirectory(prefix="t", dir=os.environ["FANFARE_TEST_FOLDER"])
    with folder as path, Stack(Path(path) / "0", CONSTANTS="{}") as stack:
        stack.start_web(APPLICATION)
        stack.start_web(APPLICATION)
        yield stack
        assert "Traceback" not in stack.logs(), stack.logs()[-3000:]


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    return f"u{abs(hash(request.node.name))}"


@pytest.fixture
def session(stack: Stack, user: str) -> str:
    with stack.client() as client:
        reply = client.post("/api/sessions", json={"user": user, "account": "acme", "session": f"of {user}"})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["session"]["sessionId"])


def ask(
    stack: Stack,
    session: str,
    body: Any = None,
    *,
    key: str | None = None,
    web: int = 0,
    method: str = "POST",
    **more: Any,
) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key or stack.api_key}", **more.pop("headers", {})}
    url = f"{stack.web[web].url}/api/sessions/{session}/receive"
    return http.request(method, url, json=body, headers=headers, **more)


def fetch(stack: Stack, session: str, *, web: int = 0, **body: Any) -> list[dict[str, Any]]:
    reply = ask(stack, session, body, web=web)
    assert reply.status_code == 200, reply.text
    assert reply.json().keys() == {"messages"}
    return list(reply.json()["messages"])


def acknowledge(stack: Stack, session: str, *receipts: str) -> list[str]:
    with stack.client() as client:
        reply = client.post(f"/api/sessions/{session}/ack", json={"receipts": receipts})
    assert reply.status_code == 200, reply.text
    return list(reply.json()["acknowledged"])


def await_waiting(stack: Stack, number: int, web: int = 0) -> None:
    eventually(lambda: bool(inside(stack.web[web])["connections"] == number), 5)


def refusal(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def test_messages_are_received_and_acknowledged_over_http(stack: Stack, session: str, user: str) -> None:
    sent = [stack.send({"user": user}, number)["id"] for number in range(12)]
    sent.append(stack.send({"session": session}, 12)["id"])
    first = fetch(stack, session)
    assert [one["messageId"] for one in first] == sent[:10]
    assert first[0].keys() == {"messageId", "receipt", "body"}
    assert first[0]["body"].items() >= {"event": "message", "topic": f"user.{user}", "offset": 1, "data": 0}.items()
    rest = fetch(stack, session, max=10, visibility=5)
    assert [one["messageId"] for one in rest] == sent[10:]
    assert fetch(stack, session) == []
    receipts = [one["receipt"] for one in first + rest]
    assert acknowledge(stack, session, *receipts) == receipts
    assert acknowledge(stack, session, *receipts) == []


@pytest.mark.parametrize("target", ["user", "session", "account", "all"])
def test_who_waits_has_an_answer_as_soon_as_something_comes(stack: Stack, session: str, user: str, target: str) -> None:
    to: dict[str, dict[str, Any]] = {
        "user": {"user": user},
        "session": {"session": session},
        "account": {"account": "acme"},
        "all": {"all": True},
    }
    with ThreadPoolExecutor(1) as threads:
        waiting: Future[list[dict[str, Any]]] = threads.submit(fetch, stack, session, wait=15, web=1)
        await_waiting(stack, 1, web=1)
        start = time.monotonic()
        sent = stack.send(to[target], 1)["id"]
        assert [one["messageId"] for one in waiting.result(10)] == [sent]
        assert time.monotonic() - start < 2


def test_what_is_not_stored_comes_to_who_waits_and_to_who_asks_soon(stack: Stack, session: str, user: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(fetch, stack, session, wait=15, web=1)
        await_waiting(stack, 1, web=1)
        time.sleep(1.1)  # So long a process may believe that nobody polls.
        stack.send({"user": user}, 1, store=False)
        (notice,) = waiting.result(10)
    assert (notice["receipt"], notice["body"]["offset"], notice["body"]["data"]) == ("", None, 1)
    stack.send({"all": True}, 2, store=False)
    assert [one["body"]["data"] for one in fetch(stack, session, wait=5)] == [2]
    assert fetch(stack, session) == []


def test_who_waits_for_nothing_is_told_so_in_time(stack: Stack, session: str) -> None:
    start = time.monotonic()
    assert fetch(stack, session, wait=1) == []
    assert 0.9 < time.monotonic() - start < 3


def test_what_is_due_again_comes_to_who_waits(stack: Stack, session: str, user: str) -> None:
    sent = stack.send({"user": user}, 1)["id"]
    start = time.monotonic()
    (first,) = fetch(stack, session, visibility=5)
    (second,) = fetch(stack, session, wait=20)
    assert first["messageId"] == second["messageId"] == sent
    assert first["receipt"] != second["receipt"]
    assert 4.5 < time.monotonic() - start < 8


def test_who_is_full_hears_that_there_is_room_again(stack: Stack, session: str, user: str) -> None:
    sent = [stack.send({"user": user}, number)["id"] for number in range(LENT_MAX + 1)]
    lent = [message for _ in range(LENT_MAX // 10) for message in fetch(stack, session, visibility=100)]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(fetch, stack, session, wait=20, web=1)
        await_waiting(stack, 1, web=1)
        start = time.monotonic()
        assert acknowledge(stack, session, lent[0]["receipt"])
        assert [one["messageId"] for one in waiting.result(10)] == sent[-1:]
    assert time.monotonic() - start < 5


def test_of_two_who_wait_for_one_session_one_gets_a_message(stack: Stack, session: str, user: str) -> None:
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(fetch, stack, session, wait=2, web=web) for web in (0, 1)]
        await_waiting(stack, 1, web=0)
        await_waiting(stack, 1, web=1)
        sent = stack.send({"user": user}, 1)["id"]
        assert [one["messageId"] for each in waiting for one in each.result(10)] == [sent]


def test_who_leaves_takes_nothing_with_them(stack: Stack, session: str, user: str) -> None:
    body = msgspec.json.encode({"wait": 20})
    with Raw(stack.web[0].port) as raw:
        headers = [f"Authorization: Bearer {stack.api_key}", "Content-Type: application/json"]
        path = f"/api/sessions/{session.replace(' ', '%20')}/receive"
        head = request(path, *headers, f"Content-Length: {len(body)}", method="POST")
        raw.socket.sendall(head + body)
        await_waiting(stack, 1)
    await_waiting(stack, 0)
    sent = stack.send({"user": user}, 1)["id"]
    assert [one["messageId"] for one in fetch(stack, session, wait=5)] == [sent]
    assert inside(stack.web[0])["inside"] == 0


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b'{"max": 0}', 400, "malformed"),
        (b'{"max": 11}', 400, "malformed"),
        (b'{"wait": 21}', 400, "malformed"),
        (b'{"wait": true}', 400, "malformed"),
        (b'{"visibility": 4}', 400, "malformed"),
        (b'{"visibility": 43201}', 400, "malformed"),
        (b'{"session": "a"}', 400, "malformed"),
        (b"[]", 400, "malformed"),
        (b"{", 400, "malformed_json"),
        (b" " * 16 * 1024 + b"{}", 413, "too_large"),
    ],
)
def test_what_is_no_good_request_is_refused(stack: Stack, body: bytes, status: int, code: str) -> None:
    with stack.client() as client:
        session = client.post("/api/sessions", json={"user": "anybody", "session": "same"}).json()["session"]
    reply = ask(stack, session["sessionId"], content=body, headers={"Content-Type": "application/json"})
    assert refusal(reply) == (status, code), reply.text


def test_only_a_session_s_user_and_services_with_the_scope_receive(stack: Stack, session: str, user: str) -> None:
    sent = stack.send({"user": user}, 1)["id"]
    assert refusal(ask(stack, session, key="nonsense")) == (401, "unauthenticated")
    assert refusal(ask(stack, session, key=stack.token("mallory"))) == (404, "unknown_session")
    assert refusal(ask(stack, "nothing", {"wait": 5})) == (404, "unknown_session")
    assert refusal(ask(stack, "%00")) == (404, "unknown_session")
    assert refusal(ask(stack, f"{session}/more")) == (404, "not_found")
    assert refusal(ask(stack, session, method="GET")) == (405, "method_not_allowed")
    assert refusal(ask(stack, session, content=b"x", headers={"Content-Type": "text/plain"})) == (
        415,
        "unsupported_media_type",
    )
    reply = ask(stack, session, key=stack.token(user))
    assert [one["messageId"] for one in reply.json()["messages"]] == [sent]


def test_a_session_may_be_called_receive(stack: Stack) -> None:
    with stack.client() as client:
        made = client.post("/api/sessions", json={"user": "anybody", "session": "receive"}).json()
        assert client.get("/api/sessions/receive").json() == made
        assert ask(stack, "receive").json() == {"messages": []}


def test_a_user_who_is_kicked_waits_no_longer_and_gets_nothing(stack: Stack, session: str, user: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, stack, session, {"wait": 20}, key=stack.token(user))
        await_waiting(stack, 1)
        with stack.client() as client:
            assert client.delete(f"/api/presence/{user}/connections").status_code < 300
        assert refusal(waiting.result(5)) == (401, "unauthenticated")


def test_a_credential_that_expires_ends_the_wait(stack: Stack, session: str, user: str) -> None:
    assert refusal(ask(stack, session, {"wait": 20}, key=stack.token(user, ttl=1))) == (401, "token_expired")


def test_new_preferences_end_the_wait_and_count_at_once(stack: Stack, session: str, user: str) -> None:
    key = stack.token(user)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, stack, session, {"wait": 20}, key=key)
        await_waiting(stack, 1)
        with stack.client(key=key) as client:
            assert client.put(f"/api/users/{user}/preferences", json={"ad": "off"}).status_code == 200
        reply = waiting.result(5)
    assert (reply.status_code, reply.json()) == (200, {"messages": []})


def test_a_process_that_shuts_down_lets_nobody_wait(stack: Stack, session: str) -> None:
    """The last one: it ends the process."""
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(fetch, stack, session, wait=20) for _ in range(3)]
        await_waiting(stack, 3)
        start = time.monotonic()
        stack.web[0].stop()
        assert [one.result(1) for one in waiting] == [[], [], []]
    assert time.monotonic() - start < 8
