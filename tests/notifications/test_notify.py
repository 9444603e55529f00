"""`from notifications import notify`: a message from code of the same project."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from accounts.errors import ApiError
from notifications import notify
from notifications.models import Message
from realtime import bus
from realtime.frames import Event
from tests.servers import Stack


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What was handed to the bus."""
    events: list[Event] = []
    monkeypatch.setattr(bus, "publish", events.extend)
    return events


@pytest.mark.django_db(transaction=True)
def test_it_is_stored_with_the_rest_of_the_transaction_and_goes_out_after_it(published: list[Event]) -> None:
    with transaction.atomic():
        (accepted,) = notify("ann", "order.shipped", {"order": 7})
        assert not published
    assert [(event.topic, event.offset) for event in published] == [("user.ann", 1)]
    message = Message.objects.get(id=accepted.id)
    assert (message.type, message.data, message.sender) == ("order.shipped", '{"order":7}', "")


@pytest.mark.django_db(transaction=True)
def test_it_is_gone_when_the_transaction_is(published: list[Event]) -> None:
    with transaction.atomic():
        notify("ann", "order.shipped")
        transaction.set_rollback(True)
    assert not Message.objects.exists()
    assert not published


@pytest.mark.django_db(transaction=True)
def test_whom_it_is_for_and_all_options(published: list[Event]) -> None:
    assert [one.topic for one in notify({"users": ["ann", "bob"]}, "t")] == ["user.ann", "user.bob"]
    assert notify({"all": True}, "t", exclude_users=["ann"])[0].topic == "all"
    assert notify({"topic": "room-1"}, "t", store=False)[0].offset is None
    later = notify("ann", "t", ttl=timedelta(hours=1), send_at=datetime.now(UTC) + timedelta(days=1), key="sale")[0]
    assert later.offset is None
    assert Message.objects.get(id=later.id).key == "sale"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "options", "field"),
    [
        ([{"users": []}, "t"], {}, "to.users"),
        ([{}, "t"], {}, "to"),
        (["ann", ""], {}, "type"),
        (["ann", "t"], {"ttl": 0}, "ttl"),
        (["ann", "t"], {"store": False, "ttl": 5}, "store"),
        (["ann", "t"], {"send_at": datetime(2030, 1, 1)}, "send_at"),
    ],
)
def test_what_the_api_refuses_is_refused_here(arguments: list[Any], options: dict[str, Any], field: str) -> None:
    with pytest.raises(ApiError) as refused:
        notify(*arguments, **options)
    assert field in (refused.value.fields or {})


def test_another_process_hears_of_it(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack()
    stack.start_web()
    with stack.client(key=stack.token("ann")) as client:
        client.timeout = 30
        since = client.get("/api/poll?wait=0").json()["since"]
        stack.python("from notifications import notify; notify('ann', 'greeting', 'Hello')")
        heard = client.get(f"/api/poll?since={since}&wait=20").json()["events"]
        assert "Hello" in [event.get("data") for event in heard]
