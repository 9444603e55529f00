"""The fake does what the server does: the same steps on both. And what only the fake can."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from fanfare_client import START, Client, Connected, Disconnected, Event, FanfareError, Message, Policy, Recalled
from fanfare_client.testing import FakeFanfare
from tests.servers import Stack, eventually

ClientOf = Callable[[str | None], Client]


@pytest.fixture
def fake() -> Iterator[FakeFanfare]:
    with FakeFanfare() as fake:
        yield fake


@pytest.fixture(params=["real", "fake"])
def client_of(request: pytest.FixtureRequest) -> Iterator[ClientOf]:
    if request.param == "fake":
        yield request.getfixturevalue("fake").client
        return
    town: Stack = request.getfixturevalue("town")
    with ExitStack() as made:
        yield lambda user: made.enter_context(Client(town.web[0].url, town.token(user) if user else town.api_key))


def until(events: Iterator[Event], kind: type) -> Any:
    for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError


def test_messages(client_of: ClientOf) -> None:
    client = client_of(None)
    with client_of("fake-ann").listen() as events:
        connected = next(events)
        assert isinstance(connected, Connected)
        assert connected.user == "fake-ann"
        eventually(lambda: client.presence.get("fake-ann").status == "ONLINE", 10)
        sent = client.send("fake-ann", {"text": "Hello"}, "greeting", idempotency_key="fake-1")
        assert client.send("fake-ann", {"text": "Hello"}, "greeting", idempotency_key="fake-1").id == sent.id
        message = until(events, Message)
        assert (message.id, message.offset, message.data, message.type) == (sent.id, 1, {"text": "Hello"}, "greeting")
        client.send("fake-ann", 2)
        assert until(events, Message).offset == 2
        client.recall(sent.id)
        assert until(events, Recalled).id == sent.id
    inbox = client_of("fake-ann").inbox("fake-ann")
    assert [one.data for one in inbox.messages()] == [2]
    assert inbox.counts().unread == 1
    assert len(inbox.read(all=True).receipted) == 1
    assert list(inbox.messages(unread=True)) == []
    assert [one.data for one in client.messages.log("user.fake-ann")] == [2]
    with client.listen(["user.fake-ann"], since=START) as events:
        assert until(events, Message).data == 2


def test_the_rest(client_of: ClientOf) -> None:
    client = client_of(None)
    assert [place.user for place in client.send({"users": ["fake-bob", "fake-cy"]}, 1).messages] == [
        "fake-bob",
        "fake-cy",
    ]
    good, bad = client.send_batch([{"to": {"user": "fake-bob"}, "data": 2}, {"to": {}, "data": 3}])
    assert (good.status, bad.status, bad.error and bad.error.code) == (202, 400, "malformed")
    board = client.boards["fake"]
    assert [board.submit(name, score).rank for name, score in [("ann", 5), ("bob", 7), ("ann", 3)]] == [0, 0, 1]
    assert [(row.name, row.score) for row in board.page().leaderboard] == [("bob", 7), ("ann", 5)]
    assert board.standing("ann").position == 2
    task = client.tasks.create({"data": "film"}, user="fake-bob")
    assert client.tasks.get(task).state == "queued"
    assert client.users.put("fake-bob", name="Bob").name == "Bob"
    assert client.users.get("fake-bob").account is None
    assert client.presence.say("fake-bob", "busy").availability == "busy"
    assert client.tokens.create(user="fake-bob").token
    for wrong in (
        lambda: board.standing("nobody"),
        lambda: client.users.get("nobody"),
        lambda: client.tasks.get("01a1fd8a-4e28-755f-8f3d-1f4fccba720e"),
        lambda: client.messages.get("01a1fd8a-4e28-755f-8f3d-1f4fccba720e"),
    ):
        with pytest.raises(FanfareError) as refused:
            wrong()
        assert refused.value.status == 404


def test_sessions(client_of: ClientOf) -> None:
    client = client_of(None)
    made = client.sessions.create("fake-dee", "fake-house", session="fake-tab")
    assert (made.session_id, made.user_id, made.account_id, made.transport) == (
        "fake-tab",
        "fake-dee",
        "fake-house",
        "poll",
    )
    assert made.expires_at > made.last_seen_at
    for to in ({"session": "fake-tab"}, {"user": "fake-dee"}, {"account": "fake-house"}, {"all": True}):
        client.send(to, to)
    with client_of("fake-dee").sessions.listen("fake-tab") as events:
        assert until(events, Connected).user == "fake-dee"
        assert [until(events, Message).data for _ in range(4)] == [
            {"session": "fake-tab"},
            {"user": "fake-dee"},
            {"account": "fake-house"},
            {"all": True},
        ]
    assert client.sessions.receive("fake-tab", wait=0) == []
    client.send("fake-dee", 5)
    (one,) = client.sessions.receive("fake-tab")
    assert (one.body["data"], client.sessions.receive("fake-tab", wait=0)) == (5, [])
    assert client.sessions.acknowledge("fake-tab", [one.receipt, "no such"]) == [one.receipt]
    assert client.sessions.renew("fake-tab").created_at == made.created_at
    assert [each.session_id for each in client.sessions.all(user="fake-dee", page_size=1)] == ["fake-tab"]
    assert client.sessions.get("fake-tab").topic == "session.fake-tab"
    with pytest.raises(FanfareError, match="unknown_session"):
        client_of("fake-cy").sessions.get("fake-tab")
    with pytest.raises(FanfareError, match="session_taken"):
        client_of("fake-cy").sessions.create(session="fake-tab")
    client.sessions.end("fake-tab")
    with pytest.raises(FanfareError, match="unknown_session"), client.sessions.listen("fake-tab") as events:
        next(events)


def test_what_was_sent_is_there_to_look_at(fake: FakeFanfare) -> None:
    fake.client().send({"topic": "room-1"}, {"text": "Hi"}, "chat")
    (sent,) = fake.sent
    assert (sent["topic"], sent["type"], sent["data"]) == ("topic.room-1", "chat", {"text": "Hi"})


def test_failures_and_lost_connections_on_demand(fake: FakeFanfare) -> None:
    fake.fail(503, "busy", times=2)
    with Client(fake.url, fake.key, policy=Policy(first_pause=0.01)) as client:
        client.send("ann", 1)
        fake.fail(422, "refused")
        with pytest.raises(FanfareError, match="refused"):
            client.send("ann", 2)
        with client.listen(["user.ann"]) as events:
            until(events, Connected)
            fake.drop()
            client.send("ann", 3)
            assert until(events, Disconnected).code == 1012
            assert until(events, Message).data == 3
        with pytest.raises(FanfareError, match="not_faked"):
            list(client.deliveries.all())
    assert len(fake.sent) == 2


def test_tasks_are_finished_by_the_test(fake: FakeFanfare) -> None:
    client = fake.client()
    task = client.tasks.create(user="ann")
    fake.finish(task, {"pages": 3})
    assert client.tasks.get(task).result == {"pages": 3}
    assert [message.type for message in client.inbox("ann").messages()] == ["task.finished"]
