"""Acknowledgements: a row for each connection that has shown a user's own message, a count for what many get."""

import threading
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from accounts import api_keys, users
from accounts.errors import ApiError
from accounts.principals import Kind, Principal
from notifications import acknowledgements, history
from notifications.acknowledgements import acknowledge, perform
from notifications.log import Draft, accept
from notifications.models import Acknowledgement, Message, Receipt
from notifications.receipts import Deed, receipt, receipt_all
from notifications.timeline import NEWEST
from realtime.protocol import Ack
from tests.credentials import mint

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _written_when_the_test_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledgements._Tally, "_schedule", lambda _tally: None)
    monkeypatch.setattr(acknowledgements, "_tally", acknowledgements._Tally())
    acknowledgements._broadcasts.clear()


@pytest.fixture(autouse=True)
def _known() -> None:
    users.see("alice", "acme", 0.0)
    users.see("bob", "acme", 0.0)


def send(topic: str, **rest: Any) -> UUID:
    (result,) = accept([Draft([topic], msgspec.json.encode(topic), **rest)])
    return UUID(result.accepted[0].id)


def user(name: str) -> Client:
    return Client(headers={"authorization": f"Bearer {mint(name, 'acme', ttl=60)}"})


def service() -> Client:
    _row, key = api_keys.create("tests")
    return Client(headers={"authorization": f"Bearer {key}"})


def told(message: UUID, client: Client | None = None) -> dict[str, Any]:
    reply = (client or service()).get(f"/api/notifications/{message}")
    assert reply.status_code == 200, reply.content
    return dict(reply.json())


def steps(message: UUID, client: Client | None = None) -> list[tuple[str, str | None]]:
    return [(s["what"], s.get("user")) for s in told(message, client)["timeline"][2:]]


def counted(message: UUID) -> int:
    acknowledgements.flush()
    return Message.objects.get(pk=message).acknowledged


# --- What is kept ---------------------------------------------------------------------------------


def test_a_users_own_message_has_a_row_for_each_connection() -> None:
    message = send("user.alice")
    assert acknowledge("alice", [message], "c1") == 1
    assert acknowledge("alice", [message, message], "c1") == 1
    assert acknowledge("alice", [message], "c2") == 1
    assert acknowledge("alice", [message]) == 1
    rows = Acknowledgement.objects.order_by("connection").values_list("connection", flat=True)
    assert list(rows) == ["", "c1", "c2"]
    assert counted(message) == 0


def test_a_broadcast_is_counted_and_no_row_is_written() -> None:
    for_all, for_account = send("all"), send("account.acme")
    for name in ("alice", "bob"):
        assert acknowledge(name, [for_all, for_account], f"connection of {name}") == 2
        assert acknowledge(name, [for_all], f"connection of {name}") == 1
    assert (counted(for_all), counted(for_account)) == (2, 2)
    acknowledge("alice", [for_all], "another")
    assert counted(for_all) == 3
    assert Acknowledgement.objects.count() == 0


def test_what_the_user_may_not_see_changes_nothing() -> None:
    users.see("eve", "globex", 0.0)
    others = [send("user.alice"), send("account.acme"), send("topic.room"), uuid4()]
    excluded = send("all", exclude_users=frozenset({"eve"}))
    later = send("user.eve", send_at=timezone.now() + timedelta(hours=1))
    assert acknowledge("eve", [*others, excluded, later], "c") == 0
    assert acknowledge("stranger", [others[1]], "c") == 0
    assert Acknowledgement.objects.count() == 0
    assert not any(counted(message) for message in (others[1], excluded))
    assert Receipt.objects.filter(user="eve").count() == 1  # The exclusion.


def test_what_was_recalled_meanwhile_was_shown_all_the_same() -> None:
    message = send("user.alice")
    history.recall(Message.objects.filter(pk=message))
    assert acknowledge("alice", [message], "c") == 1


def test_a_broadcast_is_read_once_for_all(django_assert_num_queries: Any) -> None:
    message = send("all")
    acknowledge("alice", [message], "c")
    with django_assert_num_queries(0):
        acknowledge("bob", [message], "d")
    assert counted(message) == 2


def test_what_cannot_be_written_now_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    message = send("all")
    acknowledge("alice", [message], "c")
    write = acknowledgements._write

    def fail(_counts: Any) -> None:
        raise OperationalError("down")

    monkeypatch.setattr(acknowledgements, "_write", fail)
    with pytest.raises(OperationalError):
        acknowledgements.flush()
    monkeypatch.setattr(acknowledgements, "_write", write)
    assert counted(message) == 1


def test_a_purged_message_does_not_keep_the_others_from_being_counted() -> None:
    gone, there = send("all"), send("all")
    acknowledge("alice", [gone, there], "c")
    Message.objects.filter(pk=gone).delete()
    assert counted(there) == 1


@pytest.mark.django_db(transaction=True)
def test_processes_that_count_at_once_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import connection

    messages = [send("all") for _ in range(5)]

    def count() -> None:
        for _ in range(10):
            acknowledgements._write(dict.fromkeys(messages, 1))
        connection.close()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(Message.objects.values_list("acknowledged", flat=True)) == [40] * 5


# --- Who says it ----------------------------------------------------------------------------------


def test_a_user_says_it_over_http_and_a_service_for_a_user() -> None:
    message = send("user.alice")
    reply = user("alice").post("/api/inbox/ack", {"ids": [str(message)]}, content_type="application/json")
    assert (reply.status_code, reply.json()) == (200, {"acknowledged": 1})
    body = {"ids": [str(message), str(uuid4())], "user": "alice"}
    assert service().post("/api/inbox/ack", body, content_type="application/json").json() == {"acknowledged": 1}
    assert user("bob").post("/api/inbox/ack", body, content_type="application/json").status_code == 403
    assert Acknowledgement.objects.count() == 1


@pytest.mark.parametrize(
    "body", [{}, {"ids": "x"}, {"ids": ["x"]}, {"ids": [], "more": 1}, {"ids": [str(UUID(int=1))] * 1001}]
)
def test_a_malformed_acknowledgement_is_a_400(body: Any) -> None:
    assert user("alice").post("/api/inbox/ack", body, content_type="application/json").status_code == 400


def test_who_has_no_inbox_cannot_acknowledge() -> None:
    holder = Principal(Kind.TOKEN, "t", subscribe=("user.alice",), holder="alice")
    with pytest.raises(ApiError) as refused:
        perform(Ack(ids=[]), holder, "c")
    assert refused.value.status == 403


def test_a_frame_has_1000_ids_at_most() -> None:
    with pytest.raises(ApiError) as refused:
        perform(Ack(ids=[uuid4()] * 1001), Principal(Kind.USER, "alice"), "c")
    assert refused.value.status == 400


# --- The timeline ---------------------------------------------------------------------------------


def test_the_timeline_says_who_did_what_and_which_connection_has_shown_it() -> None:
    message = send("user.alice")
    acknowledge("alice", [message], "c1")
    for deed in (Deed.SEEN, Deed.READ, Deed.ARCHIVE):
        receipt("alice", deed, [message])
    expected = [("acknowledged", "alice"), ("seen", "alice"), ("read", "alice"), ("archived", "alice")]
    assert steps(message) == steps(message, user("alice")) == expected
    everything = told(message)
    assert everything["totals"] == {"acknowledged": 1, "seen": 1, "read": 1, "archived": 1}
    assert [s["connection"] for s in everything["timeline"] if s["what"] == "acknowledged"] == ["c1"]
    assert "delivered" not in str(everything)


def test_a_broadcasts_timeline_counts_and_names_those_who_read_it() -> None:
    users.see("carol", "acme", 0.0)
    message = send("account.acme", exclude_users=frozenset({"carol"}))
    for name in ("alice", "bob"):
        acknowledge(name, [message], name)
    acknowledgements.flush()
    receipt("alice", Deed.READ, [message])
    receipt_all("bob", Deed.READ)
    receipt_all("carol", Deed.READ)  # It is not in her inbox.
    assert sorted(steps(message)) == [("read", "alice"), ("read", "bob"), ("withheld", "carol")]
    assert told(message)["totals"] == {"acknowledged": 2, "read": 2, "withheld": 1}
    assert steps(message, user("bob")) == [("read", "bob")]
    assert told(message, user("bob"))["totals"] == {"read": 1}


def test_who_came_later_has_not_read_what_was_there_before() -> None:
    message = send("all")
    users.see("late", None, 0.0)
    send("all")
    receipt_all("late", Deed.READ)
    assert steps(message) == []


def test_what_is_unread_again_was_not_read() -> None:
    message = send("all")
    receipt_all("alice", Deed.READ)
    receipt("alice", Deed.UNREAD, [message])
    assert steps(message) == []


def test_a_timeline_is_bounded_and_says_how_many_there_are() -> None:
    message = send("all")
    now = timezone.now()
    names = [f"u{n}" for n in range(NEWEST + 20)]
    Receipt.objects.bulk_create(
        Receipt(message_id=message, user=name, read_at=now + timedelta(seconds=n)) for n, name in enumerate(names)
    )
    told_steps = steps(message)
    assert told_steps == [("read", name) for name in names[20:]]
    assert told(message)["totals"] == {"read": NEWEST + 20}
