"""The inbox: what is in it for whom, what waits, and what users do with it."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from django.conf import LazySettings
from django.test import Client
from django.utils import timezone

from accounts import users
from notifications.log import Draft, accept
from notifications.models import Marker, Receipt
from notifications.receipts import Deed, receipt_all
from realtime import bus
from tests.credentials import mint

pytestmark = pytest.mark.django_db


def send(topic: str, data: Any = None, **rest: Any) -> str:
    (result,) = accept([Draft([topic], msgspec.json.encode(data), **rest)])
    return result.accepted[0].id


@pytest.fixture
def alice() -> Client:
    users.see("alice", "acme", 0.0)
    return Client(headers={"authorization": f"Bearer {mint('alice', 'acme', ttl=60)}"})


def inbox(client: Client, query: str = "") -> dict[str, Any]:
    reply = client.get(f"/api/inbox{query}")
    assert reply.status_code == 200, reply.content
    return dict(reply.json())


def shown(client: Client, query: str = "") -> list[Any]:
    return [message["data"] for message in inbox(client, query)["messages"]]


def do(client: Client, deed: str, **body: Any) -> dict[str, Any]:
    reply = client.post(f"/api/inbox/{deed}", body, content_type="application/json")
    assert reply.status_code == 200, reply.content
    return dict(reply.json())


def test_an_inbox_is_the_users_own_topic_their_accounts_and_that_of_all(alice: Client) -> None:
    for n, topic in enumerate(["user.alice", "account.acme", "all", "user.bob", "account.globex", "topic.room"]):
        send(topic, n)
    assert shown(alice) == [2, 1, 0]
    assert inbox(alice)["unread"] == inbox(alice)["unseen"] == 3


def test_a_newcomer_does_not_find_what_was_sent_to_all_before() -> None:
    send("all", "old")
    send("user.carol", "for her")  # First seen here.
    send("all", "new")
    carol = Client(headers={"authorization": f"Bearer {mint('carol', ttl=60)}"})
    assert shown(carol) == ["new", "for her"]


def test_single_messages_are_read_once_and_unread_again(alice: Client) -> None:
    one, two = send("user.alice", 1), send("all", 2)
    done = do(alice, "read", ids=[one, two, one])
    assert sorted(done["receipted"]) == sorted([one, two])
    assert done["unread"] == 0
    assert do(alice, "read", ids=[one])["receipted"] == []
    assert do(alice, "unread", ids=[one]) == {"receipted": [one], "unread": 1, "unseen": 0, "unread_more": False}
    assert shown(alice, "?unread=1") == [1]


def test_all_are_read_by_one_row_for_each_topic(alice: Client) -> None:
    ids = [send(topic, n) for n in range(3) for topic in ("user.alice", "all")]
    assert sorted(do(alice, "read", all=True)["receipted"]) == sorted(ids)
    assert Receipt.objects.count() == 0
    assert Marker.objects.count() == 2
    again = send("all", "again")
    assert do(alice, "read", all=True)["receipted"] == [again]
    assert do(alice, "unread", ids=[ids[0]])["unread"] == 1
    assert do(alice, "read", all=True)["receipted"] == [ids[0]]


def test_all_until_a_moment_leaves_what_came_later(alice: Client) -> None:
    send("user.alice", 1)
    moment = timezone.now()
    send("user.alice", 2)
    do(alice, "archive", as_of=moment.isoformat())
    assert shown(alice) == [2]
    assert shown(alice, "?archived=1") == [1]


def test_pages_of_an_inbox_join_without_gap_or_repetition(alice: Client) -> None:
    accept(
        [Draft([topic], msgspec.json.encode(n)) for n in range(10) for topic in ("user.alice", "all", "account.acme")]
    )
    whole, seen, following = shown(alice, "?limit=100"), [], ""
    while True:
        page = inbox(alice, f"?limit=4{following}")
        seen += [message["id"] for message in page["messages"]]
        if page["next"] is None:
            break
        following = f"&cursor={page['next']}"
    assert len(whole) == 30
    assert len(seen) == len(set(seen)) == 30
    assert seen == [message["id"] for message in inbox(alice, "?limit=100")["messages"]]


def test_what_is_expired_recalled_or_excluded_neither_shows_nor_counts(alice: Client) -> None:
    send("all", "not for alice", exclude_users=frozenset({"alice"}))
    recalled = send("user.alice", "recalled")
    service = Client(headers={"authorization": f"Bearer {mint('bob', ttl=60)}"})
    assert service.delete(f"/api/notifications/{recalled}").status_code == 403
    from notifications import history
    from notifications.models import Message

    history.recall(Message.objects.filter(pk=recalled))
    send("user.alice", "expired", ttl=1)
    Message.objects.filter(data='"expired"').update(expires_at=timezone.now() - timedelta(seconds=1))
    assert shown(alice) == []
    assert inbox(alice)["unread"] == 0
    assert receipt_all("alice", Deed.READ).receipted == []


@pytest.mark.django_db(transaction=True)
def test_what_is_read_can_be_told_in_the_shape_of_message_read_receipts_too(
    alice: Client, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MESSAGE_READ_RECEIPTS = True
    one = send("user.alice", 1)
    sent: list[Any] = []
    monkeypatch.setattr(bus, "publish", lambda events: sent.extend(msgspec.json.decode(e.body) for e in events))
    do(alice, "seen", ids=[one])
    do(alice, "read", ids=[one])
    assert [body["event"] for body in sent if "event" in body] == ["receipt", "unread"] * 2
    assert [body for body in sent if "event" not in body] == [
        {"_type": "message-read-receipt", "userId": "alice", "messages-receipted": [one]}
    ]
