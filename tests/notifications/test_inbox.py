"""The inbox: what is in it for whom, what waits, what users do with it, and what is refused."""

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
from notifications import history, preferences
from notifications.log import Draft, accept
from notifications.models import Marker, Message, Receipt
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


def inbox(client: Client, **query: Any) -> dict[str, Any]:
    reply = client.get(f"/api/inbox?{urlencode(query)}")
    assert reply.status_code == 200, reply.content
    return dict(reply.json())


def shown(client: Client, **query: Any) -> list[Any]:
    return [message["data"] for message in inbox(client, **query)["messages"]]


def counts(client: Client) -> tuple[int, int, bool]:
    found = inbox(client, limit=1)
    return found["unread"], found["unseen"], found["unread_more"]


def post(client: Client, deed: str, query: str = "", **body: Any) -> Any:
    return client.post(f"/api/inbox/{deed}{query}", body, content_type="application/json")


def do(client: Client, deed: str, **body: Any) -> dict[str, Any]:
    reply = post(client, deed, **body)
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
    assert shown(alice, unread=1) == [1]


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
    assert shown(alice, archived=1) == [1]


def test_pages_of_an_inbox_join_without_gap_or_repetition(alice: Client) -> None:
    accept(
        [Draft([topic], msgspec.json.encode(n)) for n in range(10) for topic in ("user.alice", "all", "account.acme")]
    )
    seen: list[str] = []
    following: dict[str, str] = {}
    while True:
        page = inbox(alice, limit=4, **following)
        seen += [message["id"] for message in page["messages"]]
        if page["next"] is None:
            break
        following = {"cursor": page["next"]}
    assert len(seen) == len(set(seen)) == 30
    assert seen == [message["id"] for message in inbox(alice, limit=100)["messages"]]


def test_what_is_expired_recalled_or_excluded_neither_shows_nor_counts(alice: Client) -> None:
    send("all", "not for alice", exclude_users=frozenset({"alice"}))
    recalled = send("user.alice", "recalled")
    service = Client(headers={"authorization": f"Bearer {mint('bob', ttl=60)}"})
    assert service.delete(f"/api/notifications/{recalled}").status_code == 403
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
    assert do(alice, deed, ids=ids)["receipted"] == []
    assert Receipt.objects.count() == before
    assert not Marker.objects.exists()


def test_a_receipt_may_be_asked_for_without_waiting(alice: Client) -> None:
    one = send("user.alice")
    reply = post(alice, "read", "?async=1", ids=[one])
    assert (reply.status_code, reply.json()["receipted"]) == (202, [one])
    assert counts(alice) == (0, 0, False)
    assert post(alice, "read", "?async=perhaps", ids=[one]).status_code == 400


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
    assert post(alice, "read", **body).status_code == 400


@pytest.mark.parametrize("query", ["unread=maybe", "archived=2", "limit=0", "limit=x", "cursor=x", "start=now"])
def test_a_malformed_question_is_a_400(alice: Client, query: str) -> None:
    assert alice.get(f"/api/inbox?{query}").status_code == 400


def test_the_inbox_knows_no_other_deed(alice: Client) -> None:
    assert post(alice, "delete", all=True).status_code == 404
