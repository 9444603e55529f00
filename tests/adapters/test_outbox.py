"""What is owed is stored with the event that it is about, for the destinations that want it."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.db import transaction
from django.utils import timezone

from accounts import users
from adapters import outbox
from adapters.models import Delivery, Destination
from notifications import work
from notifications.log import Draft, accept, publish_due
from notifications.models import Task
from tests.adapters.conftest import conserved, destination, owe

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize(
    ("wants", "gets"),
    [
        pytest.param({}, ["message user.a", "message account.x", "presence user.a"], id="everything"),
        pytest.param({"events": ["presence"]}, ["presence user.a"], id="a kind"),
        pytest.param({"topics": ["user."]}, ["message user.a", "presence user.a"], id="a prefix"),
        pytest.param({"topics": ["all", "account.x"]}, ["message account.x"], id="one of two prefixes"),
        pytest.param({"types": ["invoice"]}, ["message account.x", "presence user.a"], id="a type of messages"),
        pytest.param(
            {"events": ["message"], "topics": ["user."], "types": ["chat"]}, ["message user.a"], id="all three"
        ),
        pytest.param({"enabled": False}, [], id="off"),
    ],
)
def test_a_destination_gets_what_it_wants(wants: dict[str, Any], gets: list[str]) -> None:
    destination(**wants)
    owe("user.a", type="chat")
    owe("account.x", type="invoice")
    owe("user.a", kind="presence")
    found = Delivery.objects.order_by("id").values_list("event", "key")
    assert [f"{event} {key}" for event, key in found] == gets


def test_each_destination_is_owed_its_own() -> None:
    destination("one"), destination("two")
    owe("user.a")
    assert sorted(Delivery.objects.values_list("destination__name", flat=True)) == ["one", "two"]


def test_without_destinations_events_are_not_even_made(django_assert_num_queries: Any) -> None:
    owe("user.a")
    with django_assert_num_queries(0):
        assert outbox.owe(pytest.fail("it was made") for _ in range(1)) == 0


def test_a_message_is_owed_with_all_that_its_listeners_get() -> None:
    destination()
    (result,) = accept([Draft(["user.alice"], b'{"text": "hi"}', type="chat", sender="bob", ttl=60)])
    message = result.accepted[0]
    row = Delivery.objects.get()
    assert (row.event, row.key, row.event_id, row.state) == ("message", "user.alice", UUID(message.id), "pending")
    body = msgspec.json.decode(row.body)
    assert body.keys() == {"type", "timestamp", "data"}
    assert body["type"] == "message"
    assert body["timestamp"] == body["data"].pop("created_at")
    assert body["data"].pop("expires_at").endswith("Z")
    assert body["data"] == {
        "id": message.id,
        "topic": "user.alice",
        "epoch": message.epoch,
        "offset": 1,
        "type": "chat",
        "data": {"text": "hi"},
        "sender": "bob",
    }


def test_the_log_and_what_is_owed_of_it_are_stored_together_or_not_at_all() -> None:
    destination()
    with transaction.atomic():
        accept([Draft(["user.alice"], b"1")])
        assert Delivery.objects.count() == 1
        transaction.set_rollback(True)
    assert not Delivery.objects.exists()


def test_what_is_scheduled_is_owed_when_it_is_due_and_what_is_not_stored_never() -> None:
    destination()
    accept([Draft(["user.alice"], b"1", send_at=timezone.now() + timedelta(milliseconds=1))])
    accept([Draft(["user.alice"], b"2", store=False)])
    assert not Delivery.objects.exists()
    while not publish_due():
        pass
    body = msgspec.json.decode(Delivery.objects.get().body)
    assert (body["data"]["offset"], body["data"]["data"]) == (1, 1)


def test_a_deleted_destination_fails_no_event() -> None:
    row = destination()
    owe("user.a")
    Destination.objects.filter(pk=row.pk)._raw_delete("default")  # Another process does not know it yet.
    owe("user.b")
    assert Delivery.objects.count() == 2


def test_who_is_erased_is_erased_from_what_is_owed_too() -> None:
    destination()
    accept([Draft(["user.alice"], b'"secret"'), Draft(["user.bob"], b'"other"')])
    Delivery.objects.filter(key="user.bob").update(error="")
    assert users.erase(None, "alice")
    assert list(Delivery.objects.order_by("id").values_list("state", "key")) == [
        ("expired", ""),
        ("pending", "user.bob"),
    ]
    assert "secret" not in "".join(Delivery.objects.values_list("body", flat=True))
    assert conserved()


def test_the_end_of_a_task_is_owed_however_it_ends() -> None:
    destination(events=["task.finished"])
    for end in (lambda task: work.finish(task, b'{"rows":3}'), lambda task: work.fail(task, "no disk"), work.cancel):
        task_id, _replayed = work.create("alice", "echo", b"{}")
        task = Task.objects.get(pk=task_id)
        end(task)
    found = [
        msgspec.json.decode(body)["data"] for body in Delivery.objects.order_by("id").values_list("body", flat=True)
    ]
    assert [(data["state"], data["error"], data["result"]) for data in found] == [
        ("done", "", {"rows": 3}),
        ("failed", "no disk", None),
        ("cancelled", "", None),
    ]
    assert {data["user"] for data in found} == {"alice"}
