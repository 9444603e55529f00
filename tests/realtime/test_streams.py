"""Server-sent events and long poll on the real stack with two web processes: events, rules, recovery as on a socket."""

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest

from realtime import streams
from realtime.connections import PollConnection
from realtime.protocol import Since
from tests.realtime.inside import APPLICATION, accepted, inside, memory, metric
from tests.realtime.raw import CLOSE, PATIENCE, Raw, http, request, upgrade
from tests.servers import Stack, Web, eventually

COMMENT_SECONDS, LINGER = 0.5, 2.0
CONSTANTS = {
    "realtime.streams.COMMENT_SECONDS": COMMENT_SECONDS,
    "realtime.connections.PollConnection.linger": LINGER,
}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Memory is measured here, so without DEBUG: under it, Django keeps the last 9,000 queries of each thread."""
    with (
        tempfile.TemporaryDirectory(prefix="l", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0", CONSTANTS=json.dumps(CONSTANTS), DEBUG="0") as stack,
    ):
        for _ in range(2):
            stack.start_web(APPLICATION, wait=False)
        for web in stack.web:
            web.wait_until_ready()
        yield stack


@pytest.fixture(autouse=True)
def quiet(stack: Stack) -> Iterator[None]:
    """Whatever a client does, no traceback."""
    yield
    assert "Traceback" not in stack.logs(), stack.logs()[-3000:]


class Reader:
    """A stream as its reader sees it, block by block. `blocks` are all so far, comments too."""

    def __init__(self, web: Web, credential: str | None, *, last_event_id: str | None = None, **query: str) -> None:
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        self._opening = http.stream("GET", f"{web.url}/api/stream", params=query, headers=headers)
        self.blocks: list[str] = []
        self.id = ""

    def __enter__(self) -> Self:
        self.response = self._opening.__enter__()
        self._text = self.response.iter_text()
        self._rest = ""
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opening.__exit__(type, error, trace)

    def block(self) -> str:
        """The next block; raises EOFError at the end."""
        while "\n\n" not in self._rest:
            try:
                self._rest += next(self._text)
            except StopIteration:
                raise EOFError from None
        block, _, self._rest = self._rest.partition("\n\n")
        self.blocks.append(block)
        if block.startswith("id: "):
            self.id = block.removeprefix("id: ")
        return block

    def event(self, *names: str) -> dict[str, Any]:
        """The next event, or the next of these."""
        while True:
            block = self.block()
            if block.startswith("data: "):
                event = json.loads(block.removeprefix("data: "))
                if not names or event["event"] in names:
                    return dict(event)

    def place(self) -> str:
        """Where it stands after the events so far: the next id."""
        while not self.block().startswith("id: "):
            pass
        return self.id

    def rest(self) -> list[str]:
        """All further blocks to the end."""
        before = len(self.blocks)
        try:
            while True:
                self.block()
        except EOFError:
            assert self._rest == ""
            return self.blocks[before:]


def poll(web: Web, credential: str | None, **query: Any) -> dict[str, Any]:
    response = ask(web, "/api/poll", credential, **query)
    assert response.status_code == 200, response.text
    return dict(response.json())


def ask(web: Web, path: str, credential: str | None, *, method: str = "GET", **query: Any) -> httpx.Response:
    """One request, answered to the end or refused; of a stream only the head is read."""
    headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
    with http.stream(method, web.url + path, params=query, headers=headers) as response:
        if response.headers["content-type"] == "application/json":
            response.read()
        return response


def at(**positions: tuple[str | None, int]) -> str:
    """A place; `user__alice` stands for `user.alice`."""
    return streams.place(
        {name.replace("__", "."): Since(epoch, offset) for name, (epoch, offset) in positions.items()}
    ).decode()


def data(events: list[dict[str, Any]]) -> list[Any]:
    return [event["data"] for event in events if event["event"] == "message"]


# --- Streams --------------------------------------------------------------------------------------


def test_a_stream_has_its_headers_and_begins_with_a_welcome(stack: Stack) -> None:
    accepted = stack.send({"user": "ann"}, 1)
    with Reader(stack.web[0], stack.token("ann", "acme")) as ann:
        assert ann.response.status_code == 200
        headers = ann.response.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in headers
        assert "content-length" not in headers
        welcome = ann.event()
        assert (welcome["event"], welcome["user"]) == ("welcome", "ann")
        assert set(welcome["topics"]) == {"user.ann", "account.acme", "all"}
        assert welcome["topics"]["user.ann"] == {"epoch": accepted["epoch"], "offset": 1}
        assert ann.place()
        assert metric(stack.web[0], "fanfare_connections", transport="stream") == 1


def test_the_same_event_is_the_same_on_all_three_ways(stack: Stack) -> None:
    web, token = stack.web[0], stack.token("bea")
    stack.send({"user": "bea"}, "first")
    since = poll(web, token, topics="user.bea")["since"]
    with Reader(web, token, topics="user.bea") as reader, Raw(web.port) as raw:
        reader.event("welcome")
        raw.send(upgrade("/ws/?topics=user.bea", f"Authorization: Bearer {token}"))
        raw.head()
        raw.event("welcome")
        sent = stack.send({"user": "bea"}, {"text": "Grüße, 世界"}, type="greeting", ttl=60)
        event = raw.event("message")
        assert event["id"] == sent["id"]
        assert reader.event("message") == event
        assert poll(web, token, topics="user.bea", since=since)["events"] == [event]
        with stack.client() as client:
            client.delete(f"/api/notifications/{sent['id']}")
        assert reader.event("recalled") == raw.event("recalled")


def test_after_the_blocks_of_each_flush_comes_one_with_the_place(stack: Stack) -> None:
    with Reader(stack.web[0], stack.token("cem"), topics="user.cem") as cem:
        cem.event("welcome")
        messages = [{"to": {"user": "cem"}, "data": number} for number in range(5)]
        with stack.client() as client:
            assert client.post("/api/notifications/batch", json={"notifications": messages}).status_code == 202
        while len(cem.blocks) < 3 or '"offset":5' not in "".join(cem.blocks):
            cem.block()
        cem.place()
    blocks = [block for block in cem.blocks if block != ":"]
    assert all("\n" not in block for block in blocks)
    for block, following in pairwise(blocks):
        assert block.startswith("data: ") or following.startswith("data: "), "two places without an event between"
    assert sum(block.startswith("id: ") for block in blocks) <= 4, "what came together has one place"
    assert streams._parse_place(cem.id)["user.cem"].offset == 5


def test_a_stream_goes_on_from_its_last_id_on_another_process(stack: Stack) -> None:
    token, query = stack.token("dan", "acme"), {"topics": "user.dan,all"}
    with Reader(stack.web[0], token, **query) as dan:
        dan.event("welcome")
        stack.send({"user": "dan"}, 1)
        assert dan.event("message")["data"] == 1
        place = dan.place()
    stack.send({"user": "dan"}, 2)
    stack.send({"all": True}, "hello")
    stack.send({"user": "dan"}, 3)
    for how in ({"last_event_id": place}, {"since": place}):
        with Reader(stack.web[1], token, **query, **how) as dan:
            assert dan.event()["topics"] == {}
            events: list[dict[str, Any]] = []
            while len([event for event in events if event["event"] == "subscribed"]) < 2:
                events.append(dan.event())
            assert sorted(data(events), key=str) == [2, 3, "hello"]
            assert all(event["recovered"] for event in events if event["event"] == "subscribed")
            assert dan.place() != place
    with Reader(stack.web[1], token, last_event_id=dan.id, since=place, **query) as dan:
        assert [dan.event()["event"] for _ in range(3)] == ["welcome", "subscribed", "subscribed"]
        stack.send({"user": "dan"}, 4)
        assert dan.event("message")["data"] == 4


def test_what_cannot_be_resumed_is_not_recovered(stack: Stack) -> None:
    accepted = stack.send({"user": "eli"}, 1)
    token, epoch = stack.token("eli"), accepted["epoch"]
    for position in (("another", 1), (epoch, 2), (epoch, 10**30), (epoch, -1), (None, 1)):
        place = at(user__eli=position)
        with Reader(stack.web[0], token, topics="user.eli", last_event_id=place) as eli:
            said = eli.event("subscribed")
            assert (said["epoch"], said["offset"], said["recovered"]) == (epoch, 1, False)
            assert streams._parse_place(eli.place()) == {"user.eli": Since(epoch, 1)}
        polled = poll(stack.web[0], token, topics="user.eli", since=place)
        assert [event["recovered"] for event in polled["events"]] == [False]
        assert streams._parse_place(polled["since"]) == {"user.eli": Since(epoch, 1)}


def test_a_silent_stream_is_kept_alive_by_comments(stack: Stack) -> None:
    assert streams.COMMENT_SECONDS == 15
    with Reader(stack.web[0], stack.token("fay")) as fay:
        fay.place()
        began = time.monotonic()
        while fay.block() != ":":
            pass
        while fay.block() != ":":
            pass
        assert time.monotonic() - began > COMMENT_SECONDS * 1.5


def test_a_stream_ends_with_the_credential_and_says_so(stack: Stack) -> None:
    with Reader(stack.web[0], stack.token("gus", ttl=2), topics="user.gus") as gus:
        gus.event("welcome")
        stack.send({"user": "gus"}, "in time")
        blocks = gus.rest()
    assert '"in time"' in "".join(blocks)
    closed = {"event": "closed", "code": 4401, "reason": "the credential has expired"}
    assert json.loads(blocks[-1].removeprefix("data: ")) == closed
    assert metric(stack.web[0], "fanfare_closes_total", code="4401") >= 1
    token = stack.token("gus", ttl=2)
    since = poll(stack.web[0], token, topics="user.gus")["since"]
    answer = poll(stack.web[0], token, topics="user.gus", since=since)
    assert answer == {"events": [closed], "since": since}


# --- Polls ----------------------------------------------------------------------------------------


def test_the_first_poll_is_answered_at_once_with_the_place_to_go_on_from(stack: Stack) -> None:
    stack.send({"user": "hal"}, "before")
    began = time.monotonic()
    first = poll(stack.web[0], stack.token("hal"), topics="user.hal")
    assert time.monotonic() - began < 5
    assert first["events"] == []
    stack.send({"user": "hal"}, "after")
    assert data(poll(stack.web[0], stack.token("hal"), topics="user.hal", since=first["since"])["events"]) == ["after"]


def test_a_waiting_poll_is_woken_at_once(stack: Stack) -> None:
    token = stack.token("ida")
    since = poll(stack.web[1], token, topics="user.ida")["since"]
    lags = []
    for number in range(3):
        answers: list[dict[str, Any]] = []
        returned: list[float] = []

        def wait() -> None:
            answers.append(poll(stack.web[1], token, topics="user.ida", since=since))  # noqa: B023
            returned.append(time.monotonic())  # noqa: B023

        waiting = threading.Thread(target=wait)
        waiting.start()
        eventually(lambda: metric(stack.web[1], "fanfare_connections", transport="poll") == 1, PATIENCE)
        time.sleep(0.1)
        assert not answers
        stack.send({"user": "ida"}, number)
        sent = time.monotonic()
        waiting.join(PATIENCE)
        lags.append(returned[0] - sent)
        assert data(answers[0]["events"]) == [number]
        since = answers[0]["since"]
    assert min(lags) < 0.5, lags


def test_a_poll_without_anything_new_is_answered_when_its_time_is_up(stack: Stack) -> None:
    token = stack.token("jan")
    since = poll(stack.web[0], token, topics="user.jan")["since"]
    for wait in (0, 1):
        began = time.monotonic()
        assert poll(stack.web[0], token, topics="user.jan", since=since, wait=wait) == {"events": [], "since": since}
        assert wait <= time.monotonic() - began < wait + 5


def test_any_process_can_go_on_and_what_comes_between_two_polls_comes_by_the_next(stack: Stack) -> None:
    token = stack.token("kim")
    got: list[Any] = []
    since = poll(stack.web[0], token, topics="user.kim")["since"]
    done = threading.Event()

    def produce() -> None:
        with stack.client() as client:
            for number in range(40):
                client.post("/api/notifications", json={"to": {"user": "kim"}, "data": number})
        done.set()

    producing = threading.Thread(target=produce)
    producing.start()
    turn = 0
    while not done.is_set() or len(got) < 40:
        turn += 1
        answer = poll(stack.web[turn % 2], token, topics="user.kim", since=since, wait=1)
        since = answer["since"]
        got += data(answer["events"])
        assert turn < 1000
    producing.join()
    assert got == list(range(40))


def test_a_since_that_lacks_a_topic_is_answered_at_once(stack: Stack) -> None:
    token = stack.token("lea")
    since = poll(stack.web[0], token, topics="user.lea")["since"]
    began = time.monotonic()
    answer = poll(stack.web[0], token, topics="user.lea,all", since=since, wait=30)
    assert time.monotonic() - began < 10
    assert answer["events"] == []
    assert set(streams._parse_place(answer["since"])) == {"user.lea", "all"}


def test_a_topic_that_is_refused_beside_others_is_an_error_once_and_then_the_poll_waits(stack: Stack) -> None:
    token, topics = stack.token("moe"), "user.moe,user.eve"
    with Reader(stack.web[0], token, topics=topics) as moe:
        assert list(moe.event("welcome")["topics"]) == ["user.moe"]
        assert moe.event()["code"] == "denied"
    first = poll(stack.web[0], token, topics=topics)
    assert [event["code"] for event in first["events"]] == ["denied"]
    began = time.monotonic()
    assert poll(stack.web[0], token, topics=topics, since=first["since"], wait=1)["events"] == []
    assert time.monotonic() - began >= 1


def test_between_two_polls_the_topic_stays_joined_and_the_log_is_not_read_again(stack: Stack) -> None:
    assert PollConnection.linger == 30
    web, token = stack.web[0], stack.token("ned", "ned-inc")
    topics = {"user.ned", "account.ned-inc"}
    since = poll(web, token, topics=",".join(topics))["since"]
    assert topics <= set(inside(web)["topics"])
    before = inside(web)
    for _ in range(10):
        since = poll(web, token, topics=",".join(topics), since=since, wait=0)["since"]
    after = inside(web)
    assert after["read"] == before["read"]
    assert after["positions"] - before["positions"] < 5, "the regular checks, not one for each poll"
    for number in range(3):  # Shared topics keep their latest events.
        stack.send({"account": "ned-inc"}, number)
    eventually(lambda: metric(web, "fanfare_bus_up") == 1, PATIENCE)
    answer = poll(web, token, topics=",".join(topics), since=since, wait=5)
    assert data(answer["events"])[0] == 0
    assert inside(web)["read"] == before["read"]
    eventually(lambda: not topics & set(inside(web)["topics"]), LINGER + 5)


# --- Refusals, and who may listen -----------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/stream", "/api/poll"])
def test_refusals_have_the_shape_of_the_api(stack: Stack, path: str) -> None:
    web, good = stack.web[0], stack.token("olga")
    many = ",".join(f"topic.{number}" for number in range(129))
    cases: list[tuple[str | None, str, dict[str, str | int], int, str]] = [
        (None, "GET", {}, 401, "unauthenticated"),
        ("nonsense", "GET", {}, 401, "unauthenticated"),
        (stack.token("olga", ttl=-5), "GET", {}, 401, "token_expired"),
        (good, "GET", {"topics": "user.eve"}, 403, "denied"),
        (good, "GET", {"topics": "control"}, 403, "denied"),
        (good, "GET", {"topics": "user."}, 400, "malformed_topic"),
        (good, "GET", {"topics": "all.x"}, 400, "malformed_topic"),
        (good, "GET", {"since": "nonsense"}, 400, "malformed"),
        (good, "GET", {"since": "bnVsbA"}, 400, "malformed"),  # null
        (good, "GET", {"since": "W10"}, 400, "malformed"),  # []
        (good, "GET", {"since": "eyJhIjoxfQ"}, 400, "malformed"),  # {"a":1}
        (good, "GET", {"since": "eyJhIjpbMSwyXX0"}, 400, "malformed"),  # {"a":[1,2]}
        (good, "GET", {"since": "é"}, 400, "malformed"),
        (good, "POST", {}, 405, "method_not_allowed"),
        (good, "DELETE", {}, 405, "method_not_allowed"),
    ]
    if path == "/api/poll":
        for wait in ("61", "-1", "1.5", "abc", "", "9" * 5000, "²", "0x1"):
            cases.append((good, "GET", {"wait": wait}, 400, "malformed"))
    for credential, method, query, status, code in cases:
        response = ask(web, path, credential, method=method, **query)
        assert response.status_code == status, (query, response.text)
        assert response.headers["content-type"] == "application/json"
        error = response.json()["error"]
        assert error["code"] == code
        assert error["message"]
        assert ("www-authenticate" in response.headers) == (status == 401)
        assert ("allow" in response.headers) == (status == 405)
    response = ask(web, path, stack.api_key, topics=many)
    assert response.status_code == 200, "128 of them are good"


def test_who_may_listen_to_what_is_the_same_on_all_three_ways(stack: Stack) -> None:
    web = stack.web[0]
    credentials = {
        "nobody": None,
        "nonsense": "nonsense",
        "expired": stack.token("alice", ttl=-5),
        "alice": stack.token("alice"),
        "alice of acme": stack.token("alice", "acme"),
        "alice with rooms": stack.token("alice", subscribe=["topic.room-*", "user.bob"]),
        "service": stack.api_key,
        "writer": stack.manage("apikey", "create", "writer", "--scopes", "notifications:write").strip(),
        "unknown key": stack.api_key[:-1] + ("a" if stack.api_key[-1] != "a" else "b"),
    }
    topics = [
        "user.alice",
        "user.bob",
        "account.acme",
        "all",
        "topic.room-1",
        "topic.hall",
        "user.",
        "all.x",
        "control",
    ]
    table: dict[str, dict[str, str]] = {}
    for name, credential in credentials.items():
        for topic in topics:
            answers = {way.__name__: way(web, credential, topic) for way in (_by_socket, _by_stream, _by_poll)}
            assert len(set(answers.values())) == 1, (name, topic, answers)
            table.setdefault(name, {})[topic] = answers["_by_poll"]
    for name in ("nobody", "nonsense", "expired", "unknown key"):
        assert set(table[name].values()) == {"token_expired" if name == "expired" else "unauthenticated"}
    malformed = {"user.", "all.x"}
    allowed = {
        "alice": {"user.alice", "all"},
        "alice of acme": {"user.alice", "all", "account.acme"},
        "alice with rooms": {"user.alice", "all", "account.acme", "topic.room-1", "user.bob"},  # She is in acme by now.
        "service": {"user.alice", "user.bob", "account.acme", "all", "topic.room-1", "topic.hall"},
        "writer": set(),
    }
    for name, may in allowed.items():
        for topic in topics:
            expected = "yes" if topic in may else "malformed_topic" if topic in malformed else "denied"
            assert table[name][topic] == expected, (name, topic)


def _by_socket(web: Web, credential: str | None, topic: str) -> str:
    with Raw(web.port) as raw:
        raw.send(upgrade(f"/ws/?topics={topic}", *([f"Authorization: Bearer {credential}"] if credential else [])))
        assert raw.head()[0] == 101
        opcode, payload = raw.frame()
        if opcode == CLOSE:
            return {4401: "token_expired", 4501: "unauthenticated"}[int.from_bytes(payload[:2])]
        if topic in json.loads(payload)["topics"]:
            return "yes"
        return str(raw.event("error")["code"])


def _by_stream(web: Web, credential: str | None, topic: str) -> str:
    response = ask(web, "/api/stream", credential, topics=topic)
    return "yes" if response.status_code == 200 else str(response.json()["error"]["code"])


def _by_poll(web: Web, credential: str | None, topic: str) -> str:
    response = ask(web, "/api/poll", credential, topics=topic, wait=0)
    return "yes" if response.status_code == 200 else str(response.json()["error"]["code"])


# --- Leaving --------------------------------------------------------------------------------------


def test_a_thousand_clients_that_leave_leave_nothing_behind(stack: Stack) -> None:
    web = stack.web[0]
    _is_empty(web, LINGER + PATIENCE)
    before, sizes = inside(web), []
    for _ in range(2):
        crowd = _crowd(stack, web)
        assert metric(web, "fanfare_connections") == 1000
        assert inside(web)["inside"] == 1000
        assert len(inside(web)["topics"]) == 1000
        left_at = time.monotonic()
        for number, client in enumerate(crowd):
            client.reset() if number % 2 else client.socket.close()
        eventually(lambda: inside(web)["inside"] == 0, 4, lambda: str(inside(web)))
        assert metric(web, "fanfare_connections") == 0
        seconds = time.monotonic() - left_at
        _is_empty(web, LINGER + 4)
        after = inside(web)
        assert after["users"] == after["connections"] == 0
        assert after["tasks"] <= before["tasks"] + 3
        assert accepted(web) <= 1
        assert seconds < 4
        sizes.append(memory(web))
    assert sizes[1] - sizes[0] < 10e6, sizes


def _is_empty(web: Web, seconds: float) -> None:
    def empty() -> bool:
        found = inside(web)
        return not found["inside"] and not found["topics"]

    eventually(empty, seconds, lambda: str(inside(web))[:500])
    assert metric(web, "fanfare_topics") == 0


def _crowd(stack: Stack, web: Web) -> list[Raw]:
    """400 streams, 300 waiting polls and 300 sockets, each of a user of its own."""
    crowd = []
    for number in range(1000):
        topic = f"user.c{number}"
        since = streams.place({topic: Since(None, 0)}).decode()
        credential = f"Authorization: Bearer {stack.token(f'c{number}')}"
        client = Raw(web.port)
        if number % 10 < 4:
            client.send(request(f"/api/stream?topics={topic}", credential))
        elif number % 10 < 7:
            client.send(request(f"/api/poll?topics={topic}&wait=60&since={since}", credential))
        else:
            client.send(upgrade(f"/ws/?topics={topic}", credential))
        crowd.append(client)
    eventually(lambda: metric(web, "fanfare_topics") == 1000, 60)
    for number, client in enumerate(crowd):
        if not 4 <= number % 10 < 7:
            assert client.head()[0] in (101, 200)
    return crowd
