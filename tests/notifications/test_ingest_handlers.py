"""What records of each kind become, and which are refused: nobody gets what was not for them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.conf import LazySettings
from django.test import Client

from accounts import api_keys, users
from adapters.ingest import Record, Result, ingest
from adapters.ingest_settings import Source
from notifications import handoff
from notifications.models import Message, Receipt, Task
from realtime import bus
from realtime.frames import Event
from sessions_app import sessions

pytestmark = pytest.mark.django_db

USERS = [f"u{number}" for number in range(2500)]


@pytest.fixture(autouse=True)
def handed(monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """What was handed to workers: nobody runs it."""
    ids: list[UUID] = []
    monkeypatch.setattr(handoff, "hand", ids.append)
    return ids


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    events: list[Event] = []
    monkeypatch.setattr(bus, "publish", events.extend)
    return events


def take(kind: str, *bodies: Any, broadcasts: bool = True) -> list[Result]:
    records = [Record(f"r{number}", msgspec.json.encode(body)) for number, body in enumerate(bodies)]
    return ingest(Source("crm", kind, broadcasts=broadcasts), records)


def taken(kind: str, body: Any, **options: Any) -> Sequence[str]:
    """What one record becomes that has to be accepted."""
    (result,) = take(kind, body, **options)
    assert result.error is None, result.error
    return result.made


def refused(kind: str, body: Any, **options: Any) -> tuple[int, str]:
    """Why one record is refused; nothing is stored."""
    (result,) = take(kind, body, **options)
    assert result.error is not None
    assert not Message.objects.exists()
    assert not Task.objects.exists()
    return result.error.status, f"{result.error.code}: {result.error.message}"


def topics() -> list[str]:
    return sorted(Message.objects.values_list("topic__name", flat=True))


def event(detail_type: str, detail: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": detail_type,
        "source": "demo",
        "account": "123456789012",
        "time": "2026-01-31T12:00:00Z",
        "region": "eu-west-1",
        "resources": [],
        "detail": detail,
    }


# --- Every kind -----------------------------------------------------------------------------------

GOOD: dict[str, Any] = {
    "notification": {"to": {"user": "alice"}, "data": 1},
    "sumu": {"users": ["alice"], "data": 1},
    "reuters": {"userId": "alice", "message": "hi"},
    "eventbridge": event("notify", {"to": {"user": "alice"}, "data": 1}),
    "task": {"user": "alice", "payload": 1},
}
EVERYONE: dict[str, Any] = {
    "notification": {"to": {"all": True}, "data": 1},
    "sumu": {"data": 1},
    "reuters": {"message": "hi"},
    "eventbridge": event("notify", {"to": {"all": True}, "data": 1}),
}


def test_every_kind_has_its_good_record_here(settings: LazySettings) -> None:
    assert set(GOOD) == set(settings.INGEST_HANDLERS)


@pytest.mark.parametrize("kind", GOOD)
def test_a_record_takes_effect_once(kind: str, handed: list[UUID]) -> None:
    assert taken(kind, GOOD[kind]) == taken(kind, GOOD[kind])
    assert Message.objects.count() + Task.objects.count() == 1
    assert len(handed) == Task.objects.count()


@pytest.mark.parametrize("kind", GOOD)
def test_another_body_under_the_same_id_is_refused(kind: str) -> None:
    taken(kind, GOOD[kind])
    (result,) = take(kind, {**GOOD[kind], **({"data": 2} if kind in ("notification", "sumu") else {"x": 1})})
    assert result.error is not None
    assert Message.objects.count() + Task.objects.count() == 1
    if kind != "task":  # That has no such field.
        assert (result.error.status, result.error.code) == (422, "idempotency_mismatch")


@pytest.mark.parametrize("kind", EVERYONE)
def test_only_a_source_that_may_sends_to_everyone(kind: str) -> None:
    status, why = refused(kind, EVERYONE[kind], broadcasts=False)
    assert (status, why) == (403, "denied: This source may not send to everyone (INGEST_SOURCES: broadcasts).")
    (result,) = take(kind, EVERYONE[kind])
    assert result.error is None
    assert topics() == ["all"]


@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b'"text"', b"1e999", b'{"a":1,"a":2}', b'{"data":"\\u0000"}', b"[" * 9000]
)
def test_what_is_not_a_record_is_refused(kind: str, body: bytes) -> None:
    good = Record("good", msgspec.json.encode(GOOD[kind]))
    bad, taken = ingest(Source("crm", kind, broadcasts=True), [Record("bad", body), good])
    assert taken.error is None
    assert bad.error is not None
    assert bad.error.status == 400
    assert Message.objects.count() + Task.objects.count() == 1


# --- notification ---------------------------------------------------------------------------------


def test_a_notification_is_refused_in_the_words_of_the_api() -> None:
    client = Client(headers={"authorization": f"Bearer {api_keys.create('acme')[1]}"})
    for body in (
        {"to": {"user": "alice"}},
        {"to": {"user": 42}, "data": 1},
        {"to": {"users": []}, "data": 1},
        {"to": {}, "data": 1},
        {"to": {"user": "alice"}, "data": 1, "exclude_users": ["bob"]},
        {"to": {"user": "alice"}, "data": 1, "store": False, "ttl": 5},
        {"to": {"user": "a,b"}, "data": 1},
        {"to": {"user": "alice"}, "data": "x" * 65536},
    ):
        reply = client.post("/api/notifications", body, "application/json")
        error = reply.json()["error"]
        if error["message"].startswith("The body has"):  # There, the whole body is measured first.
            error["message"] = "data: 65536 bytes at most (MESSAGE_MAX_BYTES): send a link."
        assert refused("notification", body) == (reply.status_code, f"{error['code']}: {error['message']}")


def test_a_notification_keeps_all_that_it_says(published: list[Event], django_capture_on_commit_callbacks: Any) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        taken("notification", {"to": {"topic": "news"}, "data": 1, "type": "t", "key": "k", "ttl": 60})
    message = Message.objects.get()
    assert (message.topic.name, message.type, message.key, message.sender) == ("topic.news", "t", "k", "")
    assert message.expires_at is not None
    with django_capture_on_commit_callbacks(execute=True):
        assert (
            len(ingest(Source("crm", "notification"), [Record("live", b'{"to":{"user":"a"},"data":1,"store":false}')]))
            == 1
        )
    assert [one.topic for one in published] == ["topic.news", "user.a"]
    assert Message.objects.count() == 1


def test_more_messages_than_one_transaction_takes_are_stored_in_several(settings: LazySettings) -> None:
    settings.BATCH_MAX_MESSAGES = 3
    bodies = [
        {"to": {"users": ["a", "b"]}, "data": 1},
        {"to": {"users": list("abcd")}, "data": 1},
        GOOD["notification"],
    ]
    results = take("notification", *bodies)
    assert [result.status for result in results] == ["accepted", "refused", "accepted"]
    assert results[1].error is not None
    assert results[1].error.code == "too_many_messages"
    assert topics() == ["user.a", "user.alice", "user.b"]


# --- sumu -----------------------------------------------------------------------------------------


def test_users_get_the_data_once_each_under_its_own_type() -> None:
    data = {"type": "notification", "message": {"text": "hi", "timestamp": 1636990000}}
    made = taken("sumu", {"users": ["alice", "bob", "alice"], "data": data})
    assert len(made) == 2
    assert topics() == ["user.alice", "user.bob"]
    assert {(one.type, one.data) for one in Message.objects.all()} == {
        ("notification", msgspec.json.encode(data).decode())
    }


@pytest.mark.parametrize("data", ["text", {"type": 7}, {"type": ""}, {"type": "x" * 101}, {"type": "a\nb"}, None])
def test_data_without_a_type_of_its_own_is_a_message(data: Any) -> None:
    taken("sumu", {"users": ["alice"], "data": data})
    assert Message.objects.get().type == "message"


@pytest.mark.parametrize(
    "users", [[], None, "alice", [""], [None], [["a"]], [1.5], [True], ["a,b"], ["x" * 201]], ids=str
)
def test_users_that_are_nobody_are_refused_and_never_everyone(users: Any) -> None:
    assert refused("sumu", {"users": users, "data": 1})[0] == 400


@pytest.mark.parametrize(
    "body", [{"user": ["alice"], "data": 1}, {"Users": ["a"], "data": 1}, {"users": ["a"]}], ids=str
)
def test_a_misspelt_field_is_refused_and_never_everyone(body: Any) -> None:
    assert refused("sumu", body)[0] == 400


def test_numbers_are_users_too_and_the_same_as_their_text() -> None:
    assert len(taken("sumu", {"users": [42, "42", 7], "data": 1})) == 2
    assert topics() == ["user.42", "user.7"]


def test_more_than_a_thousand_users_are_split_and_stored_once(settings: LazySettings) -> None:
    settings.BATCH_MAX_MESSAGES = 1000
    body = {"users": [*USERS, *USERS[:10]], "data": 1}
    made = taken("sumu", body)
    assert made == taken("sumu", body)
    assert len(set(made)) == len(USERS) == Message.objects.count()


def test_more_than_100_exclude_users_are_left_out() -> None:
    users.ensure(("u0", "u499", "42", "u500"))
    taken("sumu", {"exclude_users": [*USERS[:500], 42, "42"], "data": 1})
    assert topics() == ["all"]
    assert Receipt.objects.filter(excluded=True).count() == 501
    client = Client(headers={"authorization": f"Bearer {api_keys.create('acme')[1]}"})
    inboxes = [client.get(f"/api/inbox?user={user}").json() for user in ("u0", "u499", "42", "u500")]
    assert [len(inbox["messages"]) for inbox in inboxes] == [0, 0, 0, 1], inboxes[3]
    assert take("sumu", {"exclude_users": USERS, "data": 2})[0].error is not None


def test_exclude_users_do_not_count_where_users_are_named() -> None:
    taken("sumu", {"users": ["alice"], "exclude_users": ["alice"], "data": 1})
    assert topics() == ["user.alice"]


# --- reuters --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "topic"),
    [
        ({"userId": 200}, "user.200"),
        ({"userId": "200"}, "user.200"),
        ({"accountId": 100}, "account.100"),
        ({"accountId": "100", "userId": 200}, "user.200"),
        ({}, "all"),
    ],
    ids=str,
)
def test_ids_say_who_gets_the_whole_record(ids: dict[str, Any], topic: str) -> None:
    taken("reuters", {"message": "Hello User", **ids})
    message = Message.objects.get()
    assert (message.topic.name, message.type, message.key) == (topic, "message", "r0")
    assert msgspec.json.decode(message.data) == {"message": "Hello User", **ids, "messageId": "r0"}


def test_a_record_has_its_own_type_and_message_id() -> None:
    taken("reuters", {"userId": 1, "_type": "alert", "messageId": "m-7"})
    message = Message.objects.get()
    assert (message.type, message.key) == ("alert", "m-7")
    assert msgspec.json.decode(message.data) == {"userId": 1, "_type": "alert", "messageId": "m-7"}


@pytest.mark.parametrize("value", [1, 0, False, None])
def test_what_is_not_for_the_history_goes_to_who_listens_and_is_not_kept(
    value: Any, published: list[Event], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        taken("reuters", {"userId": 1, "_sqs_only": value})
    assert [(one.topic, one.offset) for one in published] == [("user.1", None)]
    assert not Message.objects.exists()


def test_a_message_for_one_session_is_not_sent_to_all_of_the_users() -> None:
    for user in ("1", "2"):
        sessions.open_session(f"tab-{user}", user, "", "poll", 60, "", "")
    results = take(
        "reuters",
        {"userId": 1, "sessionId": "tab-1", "n": 1},
        {"userId": 1, "sessionId": "tab-2", "n": 2},
        {"userId": 1, "sessionId": "gone", "n": 3},
        {"sessionId": "tab-2", "n": 4},
    )
    assert [one.error and one.error.code for one in results] == [None, "refused", "unknown_session", None]
    assert topics() == ["session.tab-1", "session.tab-2"]


@pytest.mark.parametrize("type", ["account", "user"])
def test_records_about_sessions_are_passed_over(type: str) -> None:
    assert taken("reuters", {"_type": type, "accountId": 1}) == []
    assert not Message.objects.exists()


@pytest.mark.parametrize(
    "ids",
    [{"userId": None}, {"userId": ""}, {"userId": 1.5}, {"userId": [1]}, {"accountId": None}, {"userid": 1},
     {"user_id": 1}, {"account_id": 1}, {"SessionId": "s"}, {"_type": ""}, {"messageId": "a\nb"}],
    ids=str,
)  # fmt: skip
def test_an_id_that_is_none_is_refused_and_never_everyone(ids: dict[str, Any]) -> None:
    assert refused("reuters", {"message": "hi", **ids})[0] in (400, 422)


# --- eventbridge ----------------------------------------------------------------------------------


def test_a_notify_event_is_a_notification() -> None:
    taken("eventbridge", event("notify", {"to": {"user": "alice"}, "data": {"a": 1}, "type": "t"}))
    message = Message.objects.get()
    assert (message.topic.name, message.type, message.data) == ("user.alice", "t", '{"a":1}')


@pytest.mark.parametrize("message", ["hello world!", {"a": [1]}, 7, ""])
def test_a_topic_publish_event_is_a_message_to_the_topic(message: Any, settings: LazySettings) -> None:
    settings.EVENTS_CACHES = {"c": {}}
    taken("eventbridge", event("topicPublish", {"cacheName": "c", "topicName": "room-281", "message": message}))
    assert topics() == ["topic.room-281"]
    assert msgspec.json.decode(Message.objects.get().data) == message


@pytest.mark.parametrize(
    ("detail_type", "detail", "status", "why"),
    [
        ("notify", {"data": 1}, 400, "malformed: detail: Object missing required field `to`."),
        ("notify", '{"to":{"all":true}}', 400, "malformed: detail: Expected `object`, got `str`."),
        ("topicPublish", {"topicName": "t", "message": "m"}, 400, "missing required field `cacheName`"),
        ("topicPublish", {"cacheName": "c", "topicName": "", "message": "m"}, 400, "detail.topicName"),
        ("topicPublish", {"cacheName": "c", "topicName": 7, "message": "m"}, 400, "detail.topicName"),
        ("cacheSet", {"cacheName": "c", "key": "k", "message": "m", "ttl": 60}, 404, "There is no cache 'c'"),
        ("cacheDelete", {"cacheName": "c", "key": "k"}, 404, "There is no cache 'c'"),
        ("TopicPublish", {}, 400, "detail-type: one of notify, topicPublish, cacheSet, cacheDelete."),
    ],
)
def test_other_events_are_refused_with_what_would_be_right(
    detail_type: str, detail: Any, status: int, why: str
) -> None:
    got = refused("eventbridge", event(detail_type, detail))
    assert got[0] == status
    assert why in got[1]


def test_an_event_without_a_detail_is_refused() -> None:
    assert refused("eventbridge", {"detail-type": "notify"})[0] == 400


# --- task -----------------------------------------------------------------------------------------


def test_a_task_is_queued_and_handed_to_workers(handed: list[UUID]) -> None:
    made = taken("task", {"user": "alice", "type": "echo", "payload": {"data": "a photo"}})
    row = Task.objects.get()
    assert made == [str(row.id)]
    assert handed == [row.id]
    assert (row.user, row.type, row.state, row.payload) == ("alice", "echo", "queued", '{"data":"a photo"}')


@pytest.mark.parametrize(("user", "expected"), [("alice", "alice"), (42, "42")])
def test_a_task_can_be_just_a_text(user: Any, expected: str) -> None:
    taken("task", {"userId": user, "data": "a photo"})
    row = Task.objects.get()
    assert (row.user, row.type, row.payload) == (expected, "echo", '{"data":"a photo"}')


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"payload": 1}, 400),
        ({"user": "alice", "userId": "alice"}, 400),
        ({"user": "alice", "payload": 1, "data": "x"}, 400),
        ({"userId": "alice", "data": 1}, 400),
        ({"user": "a,b"}, 400),
        ({"user": "alice", "type": "nobody-does-this"}, 422),
        ({"user": "alice", "payload": "x" * 65536}, 413),
        ({"user": "alice", "priority": 1}, 400),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_task_that_the_api_would_refuse_is_refused(body: Any, status: int) -> None:
    assert refused("task", body)[0] == status


def test_a_bad_task_leaves_the_others(handed: list[UUID]) -> None:
    results = take("task", GOOD["task"], {"user": ""}, {"userId": "bob", "data": "x"})
    assert [result.status for result in results] == ["accepted", "refused", "accepted"]
    assert len(handed) == Task.objects.count() == 2
