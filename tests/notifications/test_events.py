"""`POST /api/events` and the ingest kind `eventbridge`: what events do to caches, topics and users."""

import json
import os
import signal
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from django.conf import LazySettings
from django.core.management import call_command
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from accounts import api_keys, idempotency, throttles, tokens
from accounts.errors import ApiError
from adapters import caches
from adapters.caches import Cache
from adapters.ingest import Record, Result, ingest
from adapters.ingest_settings import Source
from adapters.models import FailedRecord
from notifications.models import Message
from tests.services import start_valkey

pytestmark = pytest.mark.django_db

THEN = datetime(2026, 1, 31, 12, tzinfo=UTC)
QUEUE = Source("queue", "eventbridge", broadcasts=True)


@pytest.fixture(autouse=True)
def cache(settings: LazySettings) -> Cache:
    """`c` and `people`, empty; the latter's topics are users."""
    names = [f"{name}{uuid.uuid4().hex[:12]}" for name in ("c", "people")]
    settings.EVENTS_CACHES = {names[0]: {}, names[1]: {"topics": "user"}}
    return caches.find(names[0])


@pytest.fixture
def client() -> Client:
    return Client(headers={"authorization": f"Bearer {api_keys.create('acme', ['events:write'])[1]}"})


def event(detail_type: str, detail: Any, *, id: str = "", at: datetime | None = None) -> dict[str, Any]:
    found = {"version": "0", "detail-type": detail_type, "source": "demo", "detail": detail}
    return found | ({"id": id} if id else {}) | ({"time": at.isoformat()} if at else {})


def set_(cache: Cache, message: Any, key: str = "k", ttl: Any = 60) -> dict[str, Any]:
    return {"cacheName": cache.name, "key": key, "message": message, "ttl": ttl}


def removed(cache: Cache, key: str = "k") -> dict[str, Any]:
    return {"cacheName": cache.name, "key": key}


def value(cache: Cache, key: bytes = b"k") -> bytes | None:
    item = caches.get(cache, key)
    return item.value if item else None


def post(client: Client, body: Any, **headers: str) -> Any:
    return client.post("/api/events", json.dumps(body), "application/json", headers=headers)


def entry(detail_type: str, detail: Any, **more: Any) -> dict[str, Any]:
    return {"Source": "demo", "DetailType": detail_type, "Detail": json.dumps(detail), **more}


def come_in(*events: Any, ids: list[str] | None = None) -> list[Result]:
    bodies = [msgspec.json.encode(one) for one in events]
    return ingest(QUEUE, [Record(ids[n] if ids else f"r{n}", body) for n, body in enumerate(bodies)])


def dead() -> list[str]:
    output = StringIO()
    call_command("ingest", "dead", "--source", "api.events", stdout=output)
    return output.getvalue().splitlines()


# --- One event ------------------------------------------------------------------------------------


def test_a_cache_set_event_sets_and_a_cache_delete_event_deletes(client: Client, cache: Cache) -> None:
    reply = post(client, event("cacheSet", set_(cache, "hello world!", ttl=300)))
    assert reply.status_code == 200, reply.content
    assert list(reply.json()) == ["EventId"]
    item = caches.get(cache, b"k")
    assert item is not None
    assert item.value == b"hello world!"
    assert 290 < item.ttl <= 300
    assert post(client, event("cacheDelete", removed(cache))).status_code == 200
    assert caches.get(cache, b"k") is None


@pytest.mark.parametrize(
    ("message", "wanted"), [("grüße", "grüße".encode()), ({"a": [1]}, b'{"a":[1]}'), (7, b"7"), ("", b"")]
)
def test_a_text_is_kept_as_it_is_and_other_json_as_json(
    client: Client, cache: Cache, message: Any, wanted: bytes
) -> None:
    assert post(client, event("cacheSet", set_(cache, message))).status_code == 200
    assert value(cache) == wanted


def test_a_key_of_any_bytes_is_given_in_base64(client: Client, cache: Cache) -> None:
    detail = {"cacheName": cache.name, "key_base64": "__79AA", "message": "m", "ttl": 60}
    assert post(client, event("cacheSet", detail)).status_code == 200
    assert value(cache, b"\xff\xfe\xfd\0") == b"m"


def test_a_topic_publish_event_goes_to_the_topic_or_to_the_user_of_that_name(
    client: Client, cache: Cache, settings: LazySettings
) -> None:
    for name in settings.EVENTS_CACHES:
        detail = {"cacheName": name, "topicName": "alice", "message": {"text": "hi"}}
        assert post(client, event("topicPublish", detail)).status_code == 200
    assert [message.topic.name for message in Message.objects.order_by("id")] == ["topic.alice", "user.alice"]


def test_a_notify_event_notifies(client: Client) -> None:
    assert post(client, event("notify", {"to": {"all": True}, "data": 1, "type": "t"})).status_code == 200
    message = Message.objects.get()
    assert (message.topic.name, message.type, message.sender) == ("all", "t", "")


REFUSED: list[tuple[str, dict[str, Any], int, str]] = [
    ("cacheSet", {"key": "k", "key_base64": "aw", "message": "m", "ttl": 60}, 400, "either key or key_base64"),
    ("cacheSet", {"message": "m", "ttl": 60}, 400, "either key or key_base64"),
    ("cacheSet", {"key": "", "message": "m", "ttl": 60}, 400, "1-1024 bytes"),
    ("cacheSet", {"key_base64": "a", "message": "m", "ttl": 60}, 400, "URL-safe base64"),
    ("cacheSet", {"key": "k", "message": "m", "ttl": 0}, 400, "detail.ttl"),
    ("cacheSet", {"key": "k", "message": "m", "ttl": 31_536_001}, 400, "detail.ttl"),
    ("cacheSet", {"key": "k", "message": "m", "ttl": "60"}, 400, "detail.ttl"),
    ("cacheSet", {"key": "k", "message": "m"}, 400, "`ttl`"),
    ("cacheSet", {"key": "k", "ttl": 60}, 400, "`message`"),
    ("cacheSet", {"key": "k", "message": "m", "ttl": 60, "cacheName": "other"}, 404, "no cache 'other'"),
    ("cacheDelete", {"key": "k", "key_base64": "aw"}, 400, "either key or key_base64"),
    ("cacheDelete", {}, 400, "either key or key_base64"),
    ("cacheDelete", {"key": "k", "ttl": 60}, 400, "`ttl`"),
    ("topicPublish", {"topicName": "t"}, 400, "`message`"),
    ("topicPublish", {"topicName": "a,b", "message": "m"}, 400, "without comma"),
    ("topicPublish", {"topicName": "t", "message": "m", "cacheName": "other"}, 404, "no cache 'other'"),
    ("cachePut", {}, 400, "detail-type: one of notify, topicPublish, cacheSet, cacheDelete"),
]


@pytest.mark.parametrize(("detail_type", "detail", "status", "why"), REFUSED, ids=lambda value: str(value)[:50])
def test_what_is_refused_says_why_and_is_a_dead_letter_at_once(
    client: Client, cache: Cache, detail_type: str, detail: dict[str, Any], status: int, why: str
) -> None:
    reply = post(client, event(detail_type, {"cacheName": cache.name, **detail}, id="e-1"))
    assert reply.status_code == status, reply.content
    assert why in reply.json()["error"]["message"]
    (line,) = dead()
    assert " e-1  " in line
    assert why in line
    assert not Message.objects.exists()
    assert value(cache) is None


def test_ttl_is_from_a_second_to_a_year(client: Client, cache: Cache) -> None:
    for ttl in (1, 31_536_000):
        assert post(client, event("cacheSet", set_(cache, "m", ttl=ttl))).status_code == 200
        item = caches.get(cache, b"k")
        assert item is not None
        assert ttl - 5 < item.ttl <= ttl


def test_an_event_that_is_too_large_is_refused_and_its_reason_kept(client: Client, cache: Cache) -> None:
    reply = post(client, event("cacheSet", set_(cache, "x" * 300_000)))
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "too_large")
    assert FailedRecord.objects.get().body == ""


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"null", b"{}", b'{"Entries":[]}', b'{"Entries":[1]}'])
def test_what_is_no_event_at_all_is_refused_and_not_kept(client: Client, body: bytes) -> None:
    reply = client.post("/api/events", body, "application/json")
    assert reply.status_code == 400
    assert not FailedRecord.objects.exists()


def test_events_need_their_scope(cache: Cache) -> None:
    for credential in (api_keys.create("other", ["cache:write", "notifications:write"])[1],
                       tokens.issue(None, ttl=60, user="alice")[1]):  # fmt: skip
        client = Client(headers={"authorization": f"Bearer {credential}"})
        assert post(client, event("cacheDelete", removed(cache))).status_code == 403


# --- A dead letter --------------------------------------------------------------------------------


def redrive() -> str:
    output = StringIO()
    call_command("ingest", "redrive", "--source", "api.events", stdout=output)
    return output.getvalue().splitlines()[-1]


def test_a_dead_letter_is_redriven_when_the_fault_is_mended(
    client: Client, cache: Cache, settings: LazySettings
) -> None:
    name = f"new{uuid.uuid4().hex}"
    reply = post(client, event("cacheSet", {**set_(cache, "m"), "cacheName": name}))
    assert reply.status_code == 404
    assert redrive() == "Done: 0 accepted, 1 still dead."
    settings.EVENTS_CACHES = {name: {}}
    assert redrive() == "Done: 1 accepted, 0 still dead."
    assert value(caches.find(name)) == b"m"
    assert not dead()
    assert redrive() == "Done: 0 accepted, 0 still dead."


def test_a_dead_letter_that_is_redriven_changes_nothing_that_is_newer(
    client: Client, cache: Cache, settings: LazySettings
) -> None:
    others = settings.EVENTS_CACHES
    settings.EVENTS_CACHES = {}
    for entries in ({"Entries": [entry("cacheSet", set_(cache, "old"))]}, event("cacheSet", set_(cache, "old"))):
        post(client, entries)
    settings.EVENTS_CACHES = others
    assert len(dead()) == 2
    caches.put(cache, b"k", b"new", 60, caches.Cause(timezone.now().timestamp(), "later"))
    assert redrive() == "Done: 2 accepted, 0 still dead."
    assert value(cache) == b"new"


# --- Once -----------------------------------------------------------------------------------------


def test_an_event_that_comes_again_takes_effect_once(client: Client, cache: Cache) -> None:
    first = event("cacheSet", set_(cache, "first"), id="e-1", at=THEN)
    publish = event("topicPublish", {"cacheName": cache.name, "topicName": "t", "message": "m"}, id="e-2", at=THEN)
    for _ in range(3):
        assert post(client, first).json() == {"EventId": "e-1"}
        assert post(client, publish).json() == {"EventId": "e-2"}
        caches.put(cache, b"k", b"newer", 60)
    assert value(cache) == b"newer"
    assert Message.objects.count() == 1


def test_another_body_under_the_same_id_is_refused_and_the_first_counts(client: Client, cache: Cache) -> None:
    post(client, event("cacheSet", set_(cache, "first"), id="e-1", at=THEN))
    reply = post(client, event("cacheSet", set_(cache, "second"), id="e-1", at=THEN))
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "idempotency_mismatch")
    assert value(cache) == b"first"


def test_the_ids_of_two_callers_are_not_the_same(client: Client, cache: Cache) -> None:
    other = Client(headers={"authorization": f"Bearer {api_keys.create('globex', ['events:write'])[1]}"})
    assert post(client, event("cacheSet", set_(cache, "acme"), id="1")).status_code == 200
    assert post(other, event("cacheSet", set_(cache, "globex"), id="1")).status_code == 200
    assert value(cache) == b"globex"


def test_an_idempotency_key_makes_a_request_take_effect_once(client: Client, cache: Cache) -> None:
    publish = {"cacheName": cache.name, "topicName": "t", "message": "m"}
    for number, body in enumerate(
        [event("topicPublish", publish), {"Entries": [entry("topicPublish", publish), entry("cachePut", {})]}]
    ):
        replies = [post(client, body, **{"Idempotency-Key": f"k-{number}"}) for _ in range(3)]
        assert [reply.status_code for reply in replies] == [200] * 3
        assert len({reply.content for reply in replies}) == 1
        assert [reply.headers.get("Idempotent-Replayed") for reply in replies] == [None, "true", "true"]
    assert Message.objects.count() == 2
    reply = post(client, event("topicPublish", {**publish, "message": "n"}), **{"Idempotency-Key": "k-0"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (422, "idempotency_mismatch")


def test_a_refused_event_leaves_its_idempotency_key_for_a_better_one(client: Client, cache: Cache) -> None:
    key = {"Idempotency-Key": "k"}
    assert post(client, event("cacheSet", set_(cache, "m", ttl=0)), **key).status_code == 400
    assert post(client, event("cacheSet", set_(cache, "m")), **key).status_code == 200


# --- Entries --------------------------------------------------------------------------------------


def test_entries_are_judged_each_for_itself(client: Client, cache: Cache) -> None:
    publish = {"cacheName": cache.name, "topicName": "t", "message": "m"}
    entries = [
        entry("cacheSet", set_(cache, "m"), Time=1_769_860_800),
        {"Source": "demo", "DetailType": "cacheSet", "Detail": "{"},
        entry("topicPublish", publish, Resources=[], EventBusName="default"),
        {"Source": "demo", "Detail": "{}"},
        entry("cacheSet", set_(cache, "m"), Time="yesterday"),
        entry("cacheSet", set_(cache, "m"), Time=True),
    ]
    reply = post(client, {"Entries": entries})
    assert reply.status_code == 200
    body = reply.json()
    assert body["FailedEntryCount"] == 4
    assert [list(one) for one in body["Entries"]] == [
        ["EventId"], ["ErrorCode", "ErrorMessage"], ["EventId"], *[["ErrorCode", "ErrorMessage"]] * 3
    ]  # fmt: skip
    assert {one.get("ErrorCode") for one in body["Entries"]} == {None, "malformed"}
    assert len({one["EventId"] for one in body["Entries"] if "EventId" in one}) == 2
    assert value(cache) == b"m"
    assert Message.objects.count() == 1
    assert len(dead()) == 4


def test_there_are_ten_entries_at_most(client: Client, cache: Cache) -> None:
    some = [entry("cacheSet", set_(cache, str(number), key=str(number))) for number in range(11)]
    assert post(client, {"Entries": some}).status_code == 400
    assert post(client, {"Entries": some[:10]}).json()["FailedEntryCount"] == 0
    assert [value(cache, b"%d" % number) for number in range(11)] == [*(b"%d" % number for number in range(10)), None]


# --- In order, as queues bring them ---------------------------------------------------------------


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
@pytest.mark.parametrize("apart", [False, True])
def test_the_last_to_happen_counts_however_events_come(cache: Cache, order: tuple[int, ...], apart: bool) -> None:
    events = [
        event("cacheSet", set_(cache, "first"), id="a", at=THEN),
        event("cacheDelete", removed(cache), id="b", at=THEN + timedelta(seconds=1)),
        event("cacheSet", set_(cache, "last"), id="c", at=THEN + timedelta(seconds=2)),
    ]
    ids = ["a", "b", "c"]
    for batch in [[place] for place in order] if apart else [list(order)]:
        results = come_in(*(events[place] for place in batch), ids=[ids[place] for place in batch])
        assert {result.status for result in results} == {"accepted"}
    assert value(cache) == b"last"


def test_a_time_may_be_a_number_as_sdks_write_it(client: Client, cache: Cache) -> None:
    later, earlier = THEN.timestamp() + 1, THEN.timestamp() + 0.5
    entries = [entry("cacheSet", set_(cache, str(at)), Time=at) for at in (later, earlier)]
    assert post(client, {"Entries": entries}).json()["FailedEntryCount"] == 0
    assert value(cache) == str(later).encode()


def test_events_of_one_second_count_in_the_order_in_which_they_come_and_a_repetition_changes_nothing(
    cache: Cache,
) -> None:
    insert, remove = event("cacheSet", set_(cache, "m"), at=THEN), event("cacheDelete", removed(cache), at=THEN)
    for _ in range(2):
        come_in(insert, remove, ids=["a", "b"])
        assert value(cache) is None
    come_in(insert, ids=["c"])
    assert value(cache) == b"m"
    come_in(remove, ids=["b"])
    assert value(cache) == b"m"


def test_a_temporary_failure_holds_back_what_comes_after_it_for_its_key_only(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, failing = caches.put, [True]

    def busy(cache: Cache, key: bytes, *rest: Any) -> bool:
        if key == b"k" and failing:
            failing.pop()
            raise ApiError(503, "busy", "This key is being changed: try again.", retry_after=1)
        return put(cache, key, *rest)

    monkeypatch.setattr(caches, "put", busy)
    events = [
        event("cacheSet", set_(cache, "1")),
        event("cacheSet", set_(cache, "2")),
        event("cacheSet", set_(cache, "2", key="other")),
        event("cacheSet", set_(cache, "3"), at=THEN),
    ]
    results = come_in(*events)
    assert [result.status for result in results] == ["refused", "refused", "accepted", "refused"]
    assert (value(cache), value(cache, b"other")) == (None, b"2")
    assert not FailedRecord.objects.exists(), "No try is counted."
    assert {result.status for result in come_in(*events)} == {"accepted"}
    assert value(cache) == b"2"


def test_who_dies_before_the_change_is_noted_makes_it_again_and_never_over_a_later_one(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert, remove = event("cacheSet", set_(cache, "m"), at=THEN), event("cacheDelete", removed(cache), at=THEN)

    def die(_rows: Any) -> None:
        raise OperationalError("gone")

    with monkeypatch.context() as dying:
        dying.setattr(idempotency, "keep", die)
        with pytest.raises(OperationalError):
            come_in(insert, ids=["a"])
    assert value(cache) == b"m"
    come_in(remove, ids=["b"])
    assert [result.status for result in come_in(insert, ids=["a"])] == ["accepted"]
    assert value(cache) is None


# --- Redis stopped --------------------------------------------------------------------------------


@pytest.fixture
def valkey(stack_folder: Path, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(throttles, "_outage", throttles._Outage())  # The tests after this one know of none.
    process = start_valkey(stack_folder)
    settings.REDIS_URL = f"unix://{stack_folder / 'valkey.sock'}"
    yield process
    process.kill()
    process.wait(10)


def test_while_redis_is_down_events_come_again_and_nobody_is_lost(
    client: Client, cache: Cache, valkey: Any, stack_folder: Path
) -> None:
    publish = event("topicPublish", {"cacheName": cache.name, "topicName": "t", "message": "m"}, id="p")
    some = [event("cacheSet", set_(cache, "m", key=str(number)), id=str(number)) for number in range(3)]
    os.kill(valkey.pid, signal.SIGKILL)
    valkey.wait(10)
    reply = post(client, some[0])
    assert (reply.status_code, reply.json()["error"]["code"], reply["Retry-After"]) == (503, "unavailable", "2")
    results = come_in(*some, publish)
    assert [result.status for result in results] == ["refused"] * 3 + ["accepted"]
    notify = entry("notify", {"to": {"user": "a"}, "data": 1})
    body = post(client, {"Entries": [entry("cacheSet", some[0]["detail"]), notify]}).json()
    assert body["FailedEntryCount"] == 1
    assert body["Entries"][0]["ErrorCode"] == "unavailable"
    assert "EventId" in body["Entries"][1]
    assert not FailedRecord.objects.exists()
    again = start_valkey(stack_folder)
    try:
        assert {result.status for result in come_in(*some, publish)} == {"accepted"}
        assert [value(cache, b"%d" % number) for number in range(3)] == [b"m"] * 3
        assert Message.objects.count() == 2
    finally:
        again.kill()
        again.wait(10)
