"""Browser sessions in a browser: both transports, against a server that the test holds the other end of."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import Page

from tests.browser import OpenPage
from tests.clients.envelopes import message, packed, pointer, sealed
from tests.clients.fake_http import Exchange, Server
from tests.clients.pages import STATIC, await_note, notes
from tests.servers import eventually

if TYPE_CHECKING:
    from tests.emulators.aws import Aws

pytestmark = pytest.mark.any_database

SESSION = "tab 1"
PATH = "sessions/tab%201"
OPEN = """
async (options) => {
  const { openSession } = await import("/fanfare-sessions.js");
  const notes = (window.notes = []);
  let calls = 0;
  window.failing = new Set(); // What the page fails at.
  const hand = (name) => async (event) => {
    notes.push([name, event]);
    if (failing.has(event.data)) throw new Error(`cannot show ${event.data}`);
  };
  const getToken = () => `token-${++calls}`;
  const given = { getToken, session: "tab 1", ...options };
  const session = (window.session = openSession({ ...given, onMessage: hand("message"), onEvent: hand("event") }));
  session.addEventListener("state", ({ detail }) => notes.push(["state", detail]));
  session.addEventListener("error", ({ detail }) => notes.push(["error", [detail.code ?? "", detail.message]]));
}
"""

Open = Callable[..., Page]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
def open_session(server: Server, open_page: OpenPage) -> Open:
    def open_session(**options: Any) -> Page:
        page = open_page(server.url)
        page.evaluate(OPEN, options)
        return page

    return open_session


def asked(exchange: Exchange) -> Any:
    return json.loads(exchange.body)


def session(**more: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    times = {"last_seen_at": now.isoformat(), "expires_at": (now + timedelta(hours=1)).isoformat()}
    return {"session": {"sessionId": SESSION, "userId": "ann", "transport": "poll", **times, **more}}


def welcome(server: Server, status: int = 201) -> None:
    server.accept("sessions").reply(status, session())


def received(server: Server) -> Exchange:
    return server.accept(f"{PATH}/receive")


def lent(*bodies: dict[str, Any]) -> dict[str, Any]:
    ids = [body.get("id", body["topic"]) for body in bodies]
    return {"messages": [{"messageId": i, "receipt": f"{i}:1", "body": b} for i, b in zip(ids, bodies, strict=True)]}


def acknowledged(server: Server) -> list[str]:
    exchange = server.accept(f"{PATH}/ack")
    receipts = asked(exchange)["receipts"]
    exchange.reply(200, {"acknowledged": receipts})
    return list(receipts)


def data(page: Page) -> list[Any]:
    return [one["data"] for one in notes(page, "message")]


# --- By long polls ----------------------------------------------------------------------------------


def test_messages_are_handed_over_and_then_acknowledged(server: Server, open_session: Open) -> None:
    page = open_session(retention=600)
    exchange = server.accept("sessions")
    assert asked(exchange) == {"session": SESSION, "transport": "poll", "retention": 600}
    assert exchange.headers["Authorization"] == "Bearer token-1"
    exchange.reply(201, session())
    exchange = received(server)
    assert asked(exchange) == {"wait": 0, "max": 10, "visibility": 30}
    receipt = {"event": "receipt", "topic": "user.ann", "id": "r", "state": "read", "ids": ["m"]}
    exchange.reply(200, lent(message("a", 1), message("b", 2), receipt))
    assert acknowledged(server) == ["a:1", "b:1", "r:1"]
    assert asked(received(server))["wait"] == 20
    assert data(page) == [1, 2]
    assert [event["ids"] for event in notes(page, "event")] == [["m"]]
    assert [state["state"] for state in notes(page, "state")] == ["online"]


def test_what_the_page_fails_at_comes_again_and_nothing_else_does(server: Server, open_session: Open) -> None:
    page = open_session()
    welcome(server)
    page.wait_for_function("window.failing")
    page.evaluate("failing.add(2)")
    received(server).reply(200, lent(message("a", 1), message("b", 2)))
    assert acknowledged(server) == ["a:1"]
    assert await_note(page, "error") == [["", "cannot show 2"]]
    page.evaluate("failing.clear()")
    received(server).reply(200, lent(message("a", 1), message("b", 2)))
    assert acknowledged(server) == ["a:1", "b:1"]
    assert data(page) == [1, 2, 2]


def test_each_reset_of_a_topic_is_told(server: Server, open_session: Open) -> None:
    page = open_session()
    welcome(server)
    reset = {"event": "reset", "topic": "all", "epoch": "e", "offset": 3}
    for _ in range(2):
        received(server).reply(200, lent(reset))
        acknowledged(server)
    assert notes(page, "event") == [reset, reset]


def test_it_comes_back_after_failures_and_acknowledges_what_came_again(server: Server, open_session: Open) -> None:
    page = open_session()
    welcome(server)
    received(server).reply(200, lent(message("a", 1)))
    server.accept(f"{PATH}/ack").reply(502, b"<html>Bad gateway")
    (_, offline) = await_note(page, "state", 2)
    assert (offline["state"], offline["code"]) == ("offline", "no_connection")
    received(server).refuse(503, "busy", Retry_After="0")
    exchange = received(server)
    assert asked(exchange)["wait"] == 0
    exchange.reply(200, lent(message("a", 1)))
    assert acknowledged(server) == ["a:1"]
    assert data(page) == [1]
    assert page.evaluate("session.state.state") == "online"


def test_a_session_that_has_ended_is_made_anew_and_the_page_told(server: Server, open_session: Open) -> None:
    page = open_session()
    welcome(server)
    received(server).refuse(404, "unknown_session")
    welcome(server)
    received(server).reply(200, lent(message("a", 1)))
    acknowledged(server)
    assert notes(page, "event") == [{"event": "reset"}]


def test_a_fresh_token_takes_the_place_of_one_that_has_ended(server: Server, open_session: Open) -> None:
    page = open_session()
    welcome(server)
    received(server).refuse(401, "token_expired")
    exchange = received(server)
    assert exchange.headers["Authorization"] == "Bearer token-2"
    exchange.reply(200, lent())
    received(server)
    assert [state["state"] for state in notes(page, "state")] == ["online"]


@pytest.mark.parametrize(
    "body", [b"null", b"[]", b"{}", b"<html>", b'{"messages": 7}', b'{"messages": [null]}', b'{"messages": [{}]}']
)
def test_an_answer_that_is_none_ends_nothing(server: Server, open_session: Open, body: bytes) -> None:
    page = open_session()
    welcome(server)
    received(server).reply(200, body)
    received(server).reply(200, lent(message("a", 1)))
    assert acknowledged(server) == ["a:1"]
    assert data(page) == [1]


@pytest.mark.parametrize(("status", "code"), [(409, "session_taken"), (403, "denied"), (404, "not_found")])
def test_what_is_refused_for_good_is_not_asked_again(
    server: Server, open_session: Open, status: int, code: str
) -> None:
    page = open_session()
    server.accept("sessions").refuse(status, code, "Because.")
    assert await_note(page, "state") == [{"state": "closed", "code": code, "reason": "Because."}]
    assert server.nobody_comes(0.7)


def test_close_ends_the_session(server: Server, open_session: Open) -> None:
    page = open_session()
    welcome(server)
    received(server).reply(200, lent())
    waiting = received(server)
    page.evaluate("void session.close()")
    waiting.wait_left()
    exchange = server.accept(PATH)
    assert exchange.method == "DELETE"
    exchange.reply(204, b"")
    assert page.evaluate("session.state.state") == "closed"
    assert server.nobody_comes(0.7)


# --- From a queue -----------------------------------------------------------------------------------


class Queue:
    """A session's own queue, which holds what its server seals for it."""

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        self.url = aws.client("sqs").create_queue(QueueName="fanfare-test-session-x")["QueueUrl"]
        self.keys = {f"k{number}": os.urandom(32) for number in range(3)}
        self.credentials = {"accessKeyId": "ASIA", "secretAccessKey": "secret", "sessionToken": "token"}

    def session(self, key: str = "k1", seconds: float = 3600) -> dict[str, Any]:
        ends = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
        credentials = {**self.credentials, "expiration": ends, "region": "us-east-1"}
        key_shown = {"id": key, "value": packed(self.keys[key])}
        return session(transport="sqs", sqsUrl=self.url, credentials=credentials, key=key_shown)

    def put(self, event: dict[str, Any], *, key: str = "k1", to: str = SESSION, **envelope: Any) -> None:
        body = json.dumps(sealed(event, to, key, self.keys[key]) | envelope)
        self.aws.client("sqs").send_message(QueueUrl=self.url, MessageBody=body)

    def is_empty(self) -> bool:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        counts = self.aws.client("sqs").get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return set(counts.values()) == {"0"}

    def emptied(self) -> None:
        eventually(self.is_empty, 15)


@pytest.fixture
def queue(aws: Aws) -> Queue:
    return Queue(aws)


def test_messages_are_fetched_deciphered_and_deleted(server: Server, open_session: Open, queue: Queue) -> None:
    page = open_session(transport="sqs")
    exchange = server.accept("sessions")
    assert asked(exchange)["transport"] == "sqs"
    exchange.reply(201, queue.session())
    queue.put(message("a", {"text": "żółw"}))
    assert await_note(page, "message")[0]["data"] == {"text": "żółw"}
    queue.put(message("a", {"text": "again"}))
    queue.put(message("b", 2, offset=None))
    queue.put({"event": "receipt", "id": "r", "topic": "user.ann", "state": "read", "ids": ["a"]})
    await_note(page, "event")
    queue.emptied()
    assert sorted(map(str, data(page))) == ["2", "{'text': 'żółw'}"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"data": None},
        {"offset": 2},
        {"messageId": "b"},
        {"topic": "all"},
        {"to": "tab 2"},
        {"nonce": packed(bytes(12))},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_what_was_changed_or_moved_is_refused(
    server: Server, open_session: Open, queue: Queue, wrong: dict[str, Any]
) -> None:
    page = open_session(transport="sqs")
    server.accept("sessions").reply(201, queue.session())
    if "data" in wrong:
        good = sealed(message("a", 1), SESSION, "k1", queue.keys["k1"])["data"]
        wrong = {"data": good[:20] + ("A" if good[20] != "A" else "B") + good[21:]}
    queue.put(message("a", 1), **wrong)
    assert await_note(page, "error") == [["undecipherable", "This was not sealed for this session."]]
    queue.put(message("c", 3))
    await_note(page, "message")
    queue.emptied()
    assert data(page) == [3]


def test_what_is_no_envelope_holds_up_nothing(server: Server, open_session: Open, queue: Queue) -> None:
    page = open_session(transport="sqs")
    server.accept("sessions").reply(201, queue.session())
    for body in ("no JSON", "null", '{"key": "k1"}', "[]"):
        queue.aws.client("sqs").send_message(QueueUrl=queue.url, MessageBody=body)
    queue.put(message("a", 1))
    await_note(page, "message")
    queue.emptied()


def test_what_was_too_large_or_of_before_a_reload_is_in_the_log(
    server: Server, open_session: Open, queue: Queue
) -> None:
    page = open_session(transport="sqs")
    server.accept("sessions").reply(200, queue.session())
    for event, key in ((pointer("a", 7), "k1"), (message("b", "sealed", 8), "k2")):
        queue.put(event, key=key)
        exchange = server.accept("topics/user.ann/messages")
        offset = int(exchange.query["since"]) + 1
        logged = message("ab"[offset - 7], f"log {offset}", offset)
        del logged["event"]
        exchange.reply(200, {"messages": [logged]})
    queue.put(message("c", "ephemeral", None), key="k2")  # Nobody has that any more.
    await_note(page, "message", 2)
    queue.emptied()
    assert data(page) == ["log 7", "log 8"]
    assert {event["event"] for event in notes(page, "message")} == {"message"}


def test_after_a_renewal_older_messages_are_still_readable(server: Server, open_session: Open, queue: Queue) -> None:
    page = open_session(transport="sqs")
    server.accept("sessions").reply(201, queue.session("k1", seconds=1))
    page.wait_for_timeout(1000)
    queue.put(message("a", 1))
    exchange = server.accept("sessions")
    queue.put(message("b", 2))
    queue.put(message("c", 3), key="k2")
    exchange.reply(200, queue.session("k2"))
    await_note(page, "message", 3)
    queue.emptied()
    assert notes(page, "event") == []


@pytest.fixture
def role(aws: Aws, queue: Queue) -> dict[str, Any]:
    """Credentials of a role that may use the queue; from now on, every call is checked."""
    arn = f"arn:aws:sqs:us-east-1:123456789012:{queue.url.rpartition('/')[2]}"
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["sqs:*"], "Resource": arn}]}
    trust = json.dumps({"Version": "2012-10-17", "Statement": []})
    iam = aws.client("iam")
    made = iam.create_role(RoleName="sessions", AssumeRolePolicyDocument=trust)["Role"]
    iam.put_role_policy(RoleName="sessions", PolicyName="p", PolicyDocument=json.dumps(policy))
    credentials = aws.client("sts").assume_role(RoleArn=made["Arn"], RoleSessionName="ann")["Credentials"]
    queue.put(message("a", 1))
    aws.enforce_iam()
    names = {"accessKeyId": "AccessKeyId", "secretAccessKey": "SecretAccessKey", "sessionToken": "SessionToken"}
    return {ours: credentials[theirs] for ours, theirs in names.items()}


def test_credentials_that_are_refused_are_renewed(
    server: Server, open_session: Open, queue: Queue, role: dict[str, Any]
) -> None:
    page = open_session(transport="sqs")
    server.accept("sessions").reply(201, queue.session())
    exchange = server.accept("sessions")
    queue.credentials = role
    exchange.reply(200, queue.session())
    await_note(page, "message")


def test_the_signature_is_good_whatever_the_pages_clock_says(
    server: Server, open_page: OpenPage, queue: Queue, role: dict[str, Any]
) -> None:
    """The emulator computes it anew, and asks the role's policy."""
    queue.credentials = role
    page = open_page(server.url)
    page.clock.install(time=datetime.now(UTC) - timedelta(days=3))
    page.evaluate(OPEN, {"transport": "sqs"})
    server.accept("sessions").reply(201, queue.session())
    await_note(page, "message")
    assert notes(page, "error") == []


def test_it_is_small() -> None:
    assert len(gzip.compress((STATIC / "fanfare-sessions.js").read_bytes(), mtime=0)) <= 8 * 1024
