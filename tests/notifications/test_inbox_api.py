"""The inbox's routes: how far counts go, what narrows a page, what changes nothing, and what is refused."""

from datetime import timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import msgspec
import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone

from accounts import users
from notifications import preferences
from notifications.log import Draft, accept
from notifications.models import Marker, Message, Receipt
from tests.credentials import mint

pytestmark = pytest.mark.django_db


def send(topic: str, data: Any = None, **rest: Any) -> str:
    (result,) = accept([Draft([topic], msgspec.json.encode(data), **rest)])
    return result.accepted[0].id


@pytest.fixture
def alice() -> Client:
    users.see("alice", "acme", 0.0)
    return Client(headers={"authorization": f"Bearer {mint('alice', 'acme', ttl=60)}"})


def inbox(client: Client, **query: Any) -> dict[str, Any]:
    reply = client.get(f"/api/inbox?{urlencode(query)}")
    assert reply.status_code == 200, reply.content
    return dict(reply.json())


def shown(client: Client, **query: Any) -> list[Any]:
    return [message["data"] for message in inbox(client, **query)["messages"]]


def counts(client: Client) -> tuple[int, int, bool]:
    found = inbox(client, limit=1)
    return found["unread"], found["unseen"], found["unread_more"]


def do(client: Client, deed: str, query: str = "", **body: Any) -> Any:
    return client.post(f"/api/inbox/{deed}{query}", body, content_type="application/json")


def test_counts_are_exact_up_to_1000_and_then_say_that_there_are_more(alice: Client) -> None:
    accept([Draft(["user.alice" if number < 600 else "all"], b"1") for number in range(1000)])
    assert counts(alice) == (1000, 1000, False)
    one = send("account.acme")
    assert counts(alice) == (1000, 1000, True)
    do(alice, "seen", all=True)
    assert counts(alice) == (1000, 0, True)
    other = send("user.alice")
    assert counts(alice) == (1000, 1, True)
    do(alice, "read", ids=[other])
    assert counts(alice) == (1000, 0, True)
    do(alice, "read", ids=[one])
    assert counts(alice) == (1000, 0, False)
    do(alice, "read", all=True)
    do(alice, "unread", ids=[one])
    assert counts(alice) == (1, 0, False)


def test_a_page_is_narrowed_by_types_and_times(alice: Client) -> None:
    send("user.alice", 1, type="a")
    send("all", 2, type="b")
    moment = timezone.now()
    send("user.alice", 3, type="c")
    assert shown(alice, type="a,b") == [2, 1]
    assert shown(alice, type="c,unheard") == [3]
    assert shown(alice, end=moment.isoformat()) == [2, 1]
    assert shown(alice, start=moment.isoformat()) == [3]
    assert shown(alice, start=(moment + timedelta(hours=1)).isoformat()) == []
    assert inbox(alice, type="unheard")["unread"] == 3  # Counts are those of the whole inbox.


@pytest.mark.parametrize("deed", ["seen", "read", "unread", "archive"])
def test_what_is_not_in_the_inbox_changes_nothing_and_leaves_no_row(alice: Client, deed: str) -> None:
    preferences.replace("alice", {"advertisement": "off"})
    for_bob, left_out = send("user.bob"), send("all", exclude_users=frozenset({"alice"}))
    muted, gone = send("all", type="advertisement"), send("user.alice")
    Message.objects.filter(pk=gone).update(recalled_at=timezone.now())
    before = Receipt.objects.count()  # Of the one that leaves her out.
    ids = [for_bob, left_out, muted, gone, send("topic.room"), str(uuid4())]
    done = do(alice, deed, ids=ids)
    assert (done.status_code, done.json()["receipted"]) == (200, [])
    assert Receipt.objects.count() == before
    assert not Marker.objects.exists()


def test_a_receipt_may_be_asked_for_without_waiting(alice: Client) -> None:
    one = send("user.alice")
    reply = do(alice, "read", "?async=1", ids=[one])
    assert (reply.status_code, reply.json()["receipted"]) == (202, [one])
    assert counts(alice) == (0, 0, False)
    assert do(alice, "read", "?async=perhaps", ids=[one]).status_code == 400


def test_a_newcomer_finds_what_was_there_before_if_it_is_set_so(settings: LazySettings) -> None:
    settings.INBOX_FROM_FIRST_SEEN = False
    send("all", "old")
    users.see("carol", None, 0.0)
    carol = Client(headers={"authorization": f"Bearer {mint('carol', ttl=60)}"})
    assert shown(carol) == ["old"]
    assert counts(carol) == (1, 1, False)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ids": [], "all": True},
        {"ids": ["x"]},
        {"ids": [str(uuid4())] * 1001},
        {"all": False},
        {"all": "yes"},
        {"as_of": "yesterday"},
        {"as_of": "2026-01-31T12:00:00"},
        {"ids": [], "other": 1},
    ],
)
def test_what_does_not_say_which_messages_is_a_400(alice: Client, body: Any) -> None:
    assert do(alice, "read", **body).status_code == 400


@pytest.mark.parametrize("query", ["unread=maybe", "archived=2", "limit=0", "limit=x", "cursor=x", "start=now"])
def test_a_malformed_question_is_a_400(alice: Client, query: str) -> None:
    assert alice.get(f"/api/inbox?{query}").status_code == 400


def test_the_inbox_knows_no_other_deed(alice: Client) -> None:
    assert do(alice, "delete", all=True).status_code == 404
