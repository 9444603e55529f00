"""What clients say to backends is stored before they are answered, and kept even where nobody has asked for it."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from websockets.exceptions import ConnectionClosed

from accounts import users
from accounts.errors import ApiError
from accounts.models import AuditEntry
from accounts.principals import SCOPES, Kind, Principal
from adapters import client_messages, destinations, fetching, functions, outbox
from adapters.models import Delivery, Destination, QueuedEvent
from adapters.shapes import DestinationChange
from realtime.protocol import ClientMessage, PublishOutside, Send
from tests.accounts.calling import at_once
from tests.adapters.conftest import deliver, destination
from tests.realtime.sockets import PATIENCE, dial
from tests.servers import Stack

ALICE = Principal(Kind.USER, "alice", account="acme")
inside = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def handled(monkeypatch: pytest.MonkeyPatch) -> dict[str, functions.Function]:
    """The handlers of a process that has just started: none, until a test puts some in."""
    found: dict[str, functions.Function] = {}
    functions._discover()
    monkeypatch.setattr(functions, "_functions", found)
    monkeypatch.setattr(client_messages, "_handled", set())
    return found


def say(message: Any = "hello", action: type[ClientMessage] = Send, who: Principal = ALICE) -> str:
    return str(client_messages.perform(action(message=message), who, "c1")["id"])


def owed() -> list[tuple[str, str]]:
    """What is owed, as destination and kind, in the order in which it came."""
    return list(Delivery.objects.order_by("id").values_list("destination__name", "event"))


def turn_off(name: str) -> None:
    destinations.change(None, Destination.objects.get(name=name), DestinationChange(enabled=False))


# --- What is stored -------------------------------------------------------------------------------


@inside
@pytest.mark.parametrize(("action", "name"), [(Send, "send"), (PublishOutside, "publish")])
def test_a_message_is_owed_with_who_said_it_when_and_how(action: type[ClientMessage], name: str) -> None:
    destination()
    before = time.time_ns() // 1_000_000
    id = say({"text": "Grüße", "n": [1.5, None]}, action)
    row = Delivery.objects.get()
    assert (str(row.event_id), row.event, row.key) == (id, f"client.{name}", "user.alice")
    body = msgspec.json.decode(row.body)
    attributes = body["data"]["attributes"]
    assert before <= attributes["timestamp"] <= time.time_ns() // 1_000_000
    assert body["type"] == f"client.{name}"
    assert body["data"] == {
        "message": {"text": "Grüße", "n": [1.5, None]},
        "attributes": {
            "user_id": "alice",
            "timestamp": attributes["timestamp"],
            "source": f"apigw.route.{name}",
        },
        "connection": "c1",
        "account": "acme",
    }


@inside
@pytest.mark.parametrize(
    "who",
    [
        Principal(Kind.SERVICE, "backend", scopes=SCOPES),
        Principal(Kind.OPERATOR, "root", scopes=SCOPES),
        Principal(Kind.TOKEN, "t1", subscribe=("user.alice",), publish=("*",), holder="alice"),
    ],
    ids=lambda who: str(who),
)
def test_only_users_say_something(who: Principal) -> None:
    with pytest.raises(ApiError) as refused:
        say(who=who)
    assert (refused.value.status, refused.value.code) == (403, "denied")
    assert not Destination.objects.exists()


@inside
def test_a_message_has_a_size_that_it_may_have(settings: Any) -> None:
    settings.MESSAGE_MAX_BYTES = 100
    say("x" * 98)
    with pytest.raises(ApiError) as refused:
        say("x" * 99)
    assert (refused.value.status, refused.value.code) == (413, "too_large")
    assert Delivery.objects.count() == 1


@inside
def test_a_message_costs_one_statement_beside_its_transaction() -> None:
    say()
    with CaptureQueriesContext(connection) as queries:
        say()
    statements = [query["sql"].split()[0] for query in queries]
    assert [one for one in statements if one not in ("BEGIN", "COMMIT")] == ["INSERT"]


@inside
def test_who_is_erased_leaves_nothing_of_what_they_said_and_others_keep_theirs() -> None:
    bob = Principal(Kind.USER, "bob")
    say("secret words"), say("words of bob", who=bob)
    deliver()
    say("more secret words"), say("more words of bob", who=bob)
    users.ensure(["alice"])
    users.erase(None, "alice")
    for found in (QueuedEvent.objects.all(), Delivery.objects.filter(state="pending")):
        assert ["bob" in row.body for row in found] == [True]
    assert not Delivery.objects.filter(body__contains="secret").exists()


# --- Where it goes --------------------------------------------------------------------------------


@inside
def test_where_nobody_wants_it_a_table_is_made_and_keeps_it_until_a_backend_fetches_it() -> None:
    ids = [say(1), say(2, PublishOutside)]
    table = Destination.objects.get()
    assert (table.name, table.kind, table.events, table.options["fallback"]) == (
        "client-messages",
        "table",
        ["client.send", "client.publish"],
        True,
    )
    entry = AuditEntry.objects.get(action="destination.created")
    assert (entry.actor, entry.subject) == ("system:command", f"destination:{table.pk}")
    deliver()
    got = fetching.receive(fetching.tables(), 10, 30)
    assert [str(one.id) for one in got] == ids
    assert [msgspec.json.decode(one.body)["data"]["message"] for one in got] == [1, 2]


@inside
def test_eight_who_come_first_make_one_table_and_lose_nothing() -> None:
    ids = at_once(8, say)
    assert Destination.objects.count() == AuditEntry.objects.count() == 1
    assert {str(id) for id in Delivery.objects.values_list("event_id", flat=True)} == set(ids)
    assert len(set(ids)) == 8


@inside
def test_the_table_is_used_only_while_nobody_else_wants_that_kind() -> None:
    say()
    crm = destination("crm", events=["client.send"])
    say()
    say(action=PublishOutside)
    turn_off("crm")
    say()
    destinations.change(None, crm, DestinationChange(enabled=True))
    say()
    assert owed() == [
        ("client-messages", "client.send"),
        ("crm", "client.send"),
        ("client-messages", "client.publish"),
        ("client-messages", "client.send"),
        ("crm", "client.send"),
    ]


@inside
def test_several_who_want_it_all_get_it_and_no_table_is_made() -> None:
    destination("one"), destination("two", events=["client.send"]), destination("three", events=["presence"])
    say()
    assert sorted(owed()) == [("one", "client.send"), ("two", "client.send")]
    assert Destination.objects.count() == 3


@inside
def test_a_fallback_of_an_operators_own_gets_what_nobody_else_wants() -> None:
    destination("rest", kind="table", options={"fallback": True}, events=["client.publish"])
    destination("crm", events=["client.send"])
    say()
    say(action=PublishOutside)
    assert owed() == [("crm", "client.send"), ("rest", "client.publish")]


@inside
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"enabled": False}, id="turned off"),
        pytest.param({"events": ["client.publish"]}, id="wants another kind"),
        pytest.param({"topics": ["user.bob"]}, id="wants other users"),
    ],
)
def test_the_table_is_made_good_where_messages_would_be_lost(change: dict[str, Any]) -> None:
    say()
    table = Destination.objects.get()
    destinations.change(None, table, DestinationChange(**change))
    say()
    assert owed() == [("client-messages", "client.send")] * 2
    assert AuditEntry.objects.filter(action="destination.changed", actor="system:command").count() == 2
    assert set(Destination.objects.get().events) == {"client.send", "client.publish"}


@inside
def test_a_table_that_was_deleted_is_made_again() -> None:
    say()
    destinations.delete(None, Destination.objects.get())
    say()
    assert Destination.objects.filter(name="client-messages", deleted_at=None).count() == 1
    assert Delivery.objects.filter(destination__name="client-messages").count() == 1


@inside
def test_a_name_that_somebody_has_taken_is_left_to_them() -> None:
    destination("client-messages", events=["message"])
    destination("client-messages-2", kind="table", events=["message"])
    say()
    assert owed() == [("client-messages-3", "client.send")]
    assert Destination.objects.get(name="client-messages").events == ["message"]


@inside
def test_what_another_process_has_made_just_now_is_found() -> None:
    say()
    outbox._wants._read, outbox._wants._until = [], time.monotonic() + 60
    say()
    assert Destination.objects.count() == 1
    assert owed() == [("client-messages", "client.send")] * 2


# --- Handlers -------------------------------------------------------------------------------------


@inside
def test_handlers_have_a_destination_of_their_own_for_the_kinds_that_they_know(
    handled: dict[str, functions.Function],
) -> None:
    calls: list[Any] = []
    functions.client_message_handler("send")(lambda message, sender, _context: calls.append((sender, message)))
    say("first")
    say("for nobody", PublishOutside)
    assert owed() == [("handlers", "client.send"), ("client-messages", "client.publish")]
    deliver()
    assert calls == [("alice", "first")]
    functions.client_message_handler("publish")(lambda message, sender, _context: calls.append((sender, message)))
    say("now for somebody", PublishOutside)
    deliver()
    assert calls[1:] == [("alice", "now for somebody")]
    assert set(Destination.objects.get(name="handlers").events) == {"client.send", "client.publish"}


@inside
def test_handlers_get_it_beside_other_destinations_and_not_when_somebody_has_turned_them_off(
    handled: dict[str, functions.Function],
) -> None:
    handled["client.send"] = lambda _: None
    destination("crm", events=["client.send"])
    say()
    assert sorted(owed()) == [("crm", "client.send"), ("handlers", "client.send")]
    turn_off("handlers")
    client_messages._handled.clear()  # Another process, which does not know of it yet.
    say()
    turn_off("crm")
    say()
    assert owed()[2:] == [("crm", "client.send"), ("client-messages", "client.send")]


@inside
def test_a_process_that_comes_later_uses_the_handlers_that_another_has_made(
    handled: dict[str, functions.Function],
) -> None:
    assert outbox.owe([]) == 0  # It has just read that there are no destinations.
    handled["client.send"] = lambda _: None
    Destination.objects.create(name="handlers", kind="functions", events=["client.send"])
    say()
    assert owed() == [("handlers", "client.send")]


# --- Over real sockets ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def town() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="c", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "town", RATE_USER="8/h") as town,
    ):
        town.start_web()
        yield town


def fetch(town: Stack, most: int = 10) -> list[dict[str, Any]]:
    """What a backend receives within some seconds, acknowledged."""
    with town.client() as backend:
        reply = backend.post("/api/client-messages/receive", json={"max": most, "wait": 9}).raise_for_status()
        found: list[dict[str, Any]] = reply.json()["messages"]
        receipts = [one["receipt"] for one in found]
        backend.post("/api/client-messages/ack", json={"receipts": receipts}).raise_for_status()
    return found


def work(town: Stack) -> None:
    """What a Celery worker does when beat says so."""
    town.python("from adapters import delivering, tasks; delivering.LINGER_SECONDS = 0; tasks.deliver()")


async def test_frames_as_they_always_were_reach_a_backend(town: Stack) -> None:
    async with dial(town.web[0], town.token("alice", "acme")) as alice:
        for frame in (
            '{"action":"ping"}',
            '{"action":"send","message":{"text":"to the queue"}}',
            '{"action":"publish","message":{"text":"to the topic"}}',
        ):
            await alice.connection.send(frame)
        pong = await alice.next("pong")
        assert (pong["type"], pong["statusCode"], pong["connectionId"]) == (
            "pong",
            200,
            alice.events[0]["connectionId"],
        )
        last = await alice.ask("ok", action="send", message=[1, "two", None])
        assert [event["event"] for event in alice.events] == ["welcome", "pong", "ok"]
    work(town)
    got = fetch(town)
    assert [one["body"]["data"]["message"] for one in got] == [
        {"text": "to the queue"},
        {"text": "to the topic"},
        [1, "two", None],
    ]
    assert [one["body"]["data"]["attributes"]["source"].rpartition(".")[2] for one in got] == [
        "send",
        "publish",
        "send",
    ]
    assert got[2]["messageId"] == last["id"]
    assert {one["body"]["data"]["connection"] for one in got} == {alice.events[0]["connectionId"]}


async def test_what_is_answered_with_ok_is_stored_before(town: Stack) -> None:
    web = town.start_web("tests.adapters.talking:that_dies_before_ok")
    async with dial(web, town.token("doomed")) as doomed:
        with pytest.raises(ConnectionClosed):
            await doomed.ask("ok", action="send", message="the last words")
    assert web.process.wait(PATIENCE)
    work(town)
    assert [one["body"]["data"]["message"] for one in fetch(town)] == ["the last words"]


async def test_who_may_not_and_what_is_malformed_gets_an_error_and_the_socket_stays(town: Stack) -> None:
    with town.client() as client:
        scoped = client.post("/api/tokens", json={"user": "alice", "topics": ["user.alice"]}).json()["token"]
    for credential in (town.api_key, scoped):
        async with dial(town.web[0], credential) as stranger:
            for action in ("send", "publish"):
                refused = await stranger.ask("error", action=action, message=1)
                assert refused["code"] == "denied"
            await stranger.ask("pong", action="ping")
    async with dial(town.web[0], town.token("bob")) as bob:
        mixed = await bob.ask("error", action="publish", topic="user.bob", data=1, message=1)
        assert mixed["code"] == "malformed"
        assert "`topic` and `data`" in mixed["message"]
        assert "`message`" in mixed["message"]
        await bob.ask("pong", action="ping")
        unknown = await bob.ask("error", action="shout", message=1)
        assert unknown["code"] == "unknown_action"
        assert "send" in unknown["message"]


async def test_each_counts_as_a_request_of_the_user(town: Stack) -> None:
    async with dial(town.web[0], town.token("carol")) as carol:
        for number in range(8):
            await carol.ask("ok", action=("send", "publish")[number % 2], message=number)
        refused = await carol.ask("error", action="send", message="one too many")
        assert refused["code"] == "rate_limited"
