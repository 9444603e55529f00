"""Sockets, streams and polls that say whose session they are."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.realtime.raw import http
from tests.servers import Stack, eventually


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = TemporaryDirectory(prefix="t", dir=os.environ["FANFARE_TEST_FOLDER"])
    with folder as path, Stack(Path(path) / "0") as stack:
        stack.start_web()
        with stack.client() as client:
            client.post("/api/sessions", json={"user": "alice", "session": "tab"})
            client.post("/api/sessions", json={"user": "bob", "session": "bobs"})
        yield stack
        assert "Traceback" not in stack.logs(), stack.logs()[-3000:]


def poll(stack: Stack, key: str, query: str) -> Any:
    reply = http.get(f"{stack.web[0].url}/api/poll?{query}", headers={"Authorization": f"Bearer {key}"})
    return reply


def socket(stack: Stack, key: str, query: str) -> Any:
    return connect(f"{stack.web[0].socket_url}?{query}", additional_headers={"Authorization": f"Bearer {key}"})


def test_a_socket_of_a_session_hears_it_and_is_listed_as_its(stack: Stack) -> None:
    with socket(stack, stack.token("alice"), "session=tab") as live:
        assert "session.tab" in json.loads(live.recv(5))["topics"]
        stack.send({"session": "tab"}, "hello")
        while (message := json.loads(live.recv(5)))["event"] != "message":
            pass
        assert (message["topic"], message["offset"], message["data"]) == ("session.tab", 1, "hello")
        with stack.client() as client:

            def listed() -> bool:
                found = client.get("/api/connections?user=alice").json()["connections"]
                return [one["session"] for one in found if one["transport"] == "websocket"] == ["tab"]

            eventually(listed, 5)
            body = client.post("/api/sessions/tab/receive", json={}).json()["messages"][-1]["body"]
    assert body == message


def test_another_user_s_session_is_refused_and_the_rest_is_not(stack: Stack) -> None:
    with socket(stack, stack.token("alice"), "session=bobs") as live:
        welcome, error = json.loads(live.recv(5)), json.loads(live.recv(5))
    assert "session.bobs" not in welcome["topics"]
    assert (error["event"], error["code"], error["topic"]) == ("error", "unknown_session", "session.bobs")
    reply = poll(stack, stack.token("alice"), "session=bobs&topics=&wait=0")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "unknown_session")


def test_a_poll_and_a_stream_of_a_session_hear_it(stack: Stack) -> None:
    key = stack.token("alice")
    since = poll(stack, key, "session=tab&wait=0").json()["since"]
    stack.send({"session": "tab"}, "again")
    events = poll(stack, key, f"session=tab&wait=10&since={since}").json()["events"]
    assert [(event["topic"], event["data"]) for event in events] == [("session.tab", "again")]
    url = f"{stack.web[0].url}/api/stream?session=tab&since={since}"
    with http.stream("GET", url, headers={"Authorization": f"Bearer {key}"}) as stream:
        for line in stream.iter_lines():
            if '"message"' in line:
                assert '"again"' in line
                break


def test_topics_that_are_asked_for_are_all_that_it_hears(stack: Stack) -> None:
    with socket(stack, stack.api_key, "session=tab&topics=all") as live:
        assert list(json.loads(live.recv(5))["topics"]) == ["all"]
    with socket(stack, stack.api_key, "session=tab") as live:
        assert list(json.loads(live.recv(5))["topics"]) == ["session.tab"]
