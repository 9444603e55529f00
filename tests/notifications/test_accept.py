"""Accepting messages: what is stored, what is published and when, and that nothing breaks when many do it at once."""

import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.conf import LazySettings
from django.db import IntegrityError, OperationalError, connection, connections, transaction
from django.db.models import Count, Max, Min
from django.test import Client

from accounts import api_keys, idempotency
from accounts.errors import ApiError
from accounts.idempotency import Claim
from accounts.models import IdempotencyKey
from accounts.principals import Kind, Principal
from notifications.log import Draft, Refusal, Result, accept
from notifications.models import Message, Receipt, Topic
from realtime import bus
from realtime.frames import Event

PATIENCE = 40.0  # Seconds that a test waits for its threads and processes.
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
SERVICE = Principal(Kind.SERVICE, "acme-backend")


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    """What went to the bus, in order."""
    events: list[Event] = []
    monkeypatch.setattr(bus, "publish", events.extend)
    return events


def draft(*topics: str, **rest: Any) -> Draft:
    return Draft(topics or ("user.alice",), rest.pop("data", b'{"text":"hello"}'), **rest)


def send(*topics: str, **rest: Any) -> Result:
    (result,) = accept([draft(*topics, **rest)])
    assert result.refused is None
    return result


def claim(key: str = "order-1", body: bytes = b"{}") -> Claim:
    return Claim.of(SERVICE, "notifications", key, body)


def stored() -> list[tuple[str, int | None]]:
    return list(Message.objects.order_by("topic__name", "offset").values_list("topic__name", "offset"))


# --- What is stored -------------------------------------------------------------------------------


@pytest.mark.django_db
def test_results_come_in_the_order_of_the_drafts() -> None:
    results = accept([draft("user.bob"), draft("user.alice", "user.carol"), draft("account.acme"), draft("user.alice")])
    places = [[(one.topic, one.offset) for one in r.accepted] for r in results]
    assert places == [
        [("user.bob", 1)],
        [("user.alice", 1), ("user.carol", 1)],
        [("account.acme", 1)],
        [("user.alice", 2)],
    ]


@pytest.mark.django_db
def test_offsets_run_from_one_without_a_gap_and_the_head_is_the_last() -> None:
    for size in (1, 3, 2):
        accept([draft("topic.room")] * size)
    assert stored() == [("topic.room", offset) for offset in range(1, 7)]
    topic = Topic.objects.get(name="topic.room")
    assert (topic.head, topic.tail) == (6, 1)


@pytest.mark.django_db
def test_the_epoch_is_named_once_and_stays() -> None:
    first, again = send("user.alice").accepted[0], send("user.alice").accepted[0]
    assert first.epoch
    assert first.epoch == again.epoch
    assert send("user.bob").accepted[0].epoch != first.epoch


@pytest.mark.django_db
def test_a_broadcast_is_one_row() -> None:
    send("user.alice"), send("user.bob"), send("user.carol")
    before = Message.objects.count()
    send("all")
    send("account.acme")
    assert Message.objects.count() == before + 2


@pytest.mark.django_db
def test_many_drafts_take_a_handful_of_statements(django_assert_max_num_queries: Any) -> None:
    # In bulk: SQLite takes some 80 messages in a statement. One asks which destinations want them.
    with django_assert_max_num_queries(21):
        accept([draft(f"user.{n}", exclude_users=frozenset({"mallory"})) for n in range(500)])
    assert Message.objects.count() == 500


@pytest.mark.django_db
def test_data_is_kept_byte_for_byte() -> None:
    data = '{"ä":[1,2.5e3,null,"\\u0041 😀"],"z":{}}'.encode()
    message = Message.objects.get(pk=send("user.alice", data=data).accepted[0].id)
    assert message.data.encode() == data


@pytest.mark.django_db
def test_excluded_users_get_an_excluded_receipt_each() -> None:
    message_id = send("account.acme", exclude_users=frozenset({"alice", "bob"})).accepted[0].id
    receipts = Receipt.objects.filter(message_id=message_id).order_by("user").values_list("user", "excluded")
    assert list(receipts) == [("alice", True), ("bob", True)]
    assert Message.objects.get(pk=message_id).has_exclusions
    assert not Message.objects.get(pk=send("account.acme").accepted[0].id).has_exclusions


@pytest.mark.django_db
def test_the_time_to_live_counts_from_when_it_is_sent() -> None:
    with time_machine.travel(NOW, tick=False):
        now = Message.objects.get(pk=send(ttl=60).accepted[0].id)
        later = Message.objects.get(pk=send(ttl=60, send_at=NOW + timedelta(hours=1)).accepted[0].id)
        forever = Message.objects.get(pk=send().accepted[0].id)
    assert now.expires_at == NOW + timedelta(seconds=60)
    assert later.expires_at == NOW + timedelta(hours=1, seconds=60)
    assert forever.expires_at is None


@pytest.mark.django_db
def test_a_scheduled_message_takes_no_offset_and_is_not_published(
    published: list[Event], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        place = send("user.alice", send_at=NOW + timedelta(days=3650)).accepted[0]
    assert (place.offset, place.epoch) == (None, None)
    assert Topic.objects.get(name="user.alice").head == 0
    assert published == []


@pytest.mark.django_db
def test_the_key_is_a_label_and_need_not_be_unique() -> None:
    accept([draft(key="order-7"), draft(key="order-7"), draft()])
    assert Message.objects.filter(key="order-7").count() == 2


@pytest.mark.django_db
def test_what_is_not_to_be_stored_writes_no_row_and_goes_out_without_offset(
    published: list[Event], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        place = send("topic.room", store=False, exclude_users=frozenset({"alice"})).accepted[0]
        assert not published, "an outer transaction may still be rolled back"
    assert (place.topic, place.epoch, place.offset) == ("topic.room", None, None)
    assert not Topic.objects.exists()
    assert not Message.objects.exists()
    (event,) = published
    assert (event.topic, event.epoch, event.offset, event.exclude) == ("topic.room", None, None, frozenset({"alice"}))


@pytest.mark.django_db
def test_stored_and_ephemeral_drafts_mix_in_one_batch(
    published: list[Event], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        accept([draft("topic.room"), draft("topic.room", store=False), draft("topic.room")])
    assert [event.offset for event in published] == [1, None, 2]
    assert Message.objects.count() == 2


@pytest.mark.django_db
def test_more_messages_than_a_batch_may_have_are_refused_before_anything_is_stored(settings: LazySettings) -> None:
    settings.BATCH_MAX_MESSAGES = 4
    accept([draft("user.alice", "user.bob"), draft("user.alice", "user.bob")])
    with pytest.raises(ApiError) as refused:
        accept([draft("user.alice", "user.bob"), draft("user.alice", "user.bob", "user.carol")])
    assert (refused.value.status, refused.value.code) == (413, "too_many_messages")
    assert Message.objects.count() == 4


@pytest.mark.django_db
def test_an_empty_batch_is_nothing(published: list[Event]) -> None:
    assert accept([]) == []
    assert published == []


# --- The same transaction -------------------------------------------------------------------------


def noting_sink(messages: Sequence[Message]) -> None:
    """A room of its own that keeps a row for each message."""
    Receipt.objects.bulk_create([Receipt(message=message, user=f"sink of {message.offset}") for message in messages])


def failing_sink(messages: Sequence[Message]) -> None:
    noting_sink(messages)
    raise RuntimeError("the sink is broken")


@pytest.mark.django_db(transaction=True)
def test_sinks_write_rows_of_their_own_for_stored_messages_only(settings: LazySettings) -> None:
    settings.MESSAGE_SINKS = [f"{__name__}.noting_sink"]
    accept([draft("user.alice"), draft("user.alice"), draft("user.alice", store=False)])
    assert sorted(Receipt.objects.values_list("user", flat=True)) == ["sink of 1", "sink of 2"]


@pytest.mark.django_db(transaction=True)
def test_a_sink_that_fails_leaves_nothing_behind(settings: LazySettings, published: list[Event]) -> None:
    settings.MESSAGE_SINKS = [f"{__name__}.noting_sink", f"{__name__}.failing_sink"]
    with pytest.raises((RuntimeError, IntegrityError)):
        accept([draft("user.alice", claim=claim(), exclude_users=frozenset({"bob"}))])
    for model in (Topic, Message, Receipt, IdempotencyKey):
        assert not model._default_manager.exists(), model
    assert published == []
    settings.MESSAGE_SINKS = []
    assert send("user.alice", claim=claim()).accepted[0].offset == 1


@pytest.mark.django_db(transaction=True)
def test_events_go_out_after_commit_in_the_order_of_offsets(published: list[Event]) -> None:
    with transaction.atomic():
        send("user.alice"), send("user.bob"), send("user.alice")
        assert published == []
    assert [(event.topic, event.offset) for event in published] == [
        ("user.alice", 1),
        ("user.bob", 1),
        ("user.alice", 2),
    ]


@pytest.mark.django_db(transaction=True)
def test_nothing_goes_out_when_the_outer_transaction_rolls_back(published: list[Event]) -> None:
    with transaction.atomic():
        send("user.alice")
        with transaction.atomic():
            send("user.bob", claim=claim())
        transaction.set_rollback(True)
    assert published == []
    assert not Message.objects.exists()
    assert not IdempotencyKey.objects.exists()
    assert send("user.alice").accepted[0].offset == 1


# --- Once -----------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_same_request_again_gets_the_first_reply_and_does_nothing(published: list[Event]) -> None:
    first, again = send("user.alice", "user.bob", claim=claim()), send("user.alice", "user.bob", claim=claim())
    assert again.accepted == first.accepted
    assert (first.replayed, again.replayed) == (False, True)
    assert Message.objects.count() == 2
    assert len(published) == 2


@pytest.mark.django_db
def test_another_body_under_the_same_key_is_refused() -> None:
    send(claim=claim(body=b"1"))
    (refused,) = accept([draft(claim=claim(body=b"2"))])
    assert refused.refused is not None
    assert not refused.accepted
    assert (refused.refused.status, refused.refused.code) == (422, "idempotency_mismatch")
    assert Message.objects.count() == 1


@pytest.mark.django_db
def test_another_principal_or_route_may_use_the_same_key() -> None:
    send(claim=claim())
    send(claim=Claim.of(Principal(Kind.SERVICE, "globex-backend"), "notifications", "order-1", b"{}"))
    send(claim=Claim.of(Principal(Kind.USER, "acme-backend"), "notifications", "order-1", b"{}"))
    send(claim=Claim.of(SERVICE, "batch", "order-1", b"{}"))
    assert Message.objects.count() == 4


@pytest.mark.django_db
def test_the_drafts_of_a_batch_share_one_claim() -> None:
    batch = [draft("user.alice", claim=claim()), draft("user.bob", claim=claim()), draft("user.alice", claim=claim())]
    first, again = accept(batch), accept(batch)
    assert [result.accepted for result in again] == [result.accepted for result in first]
    assert {result.replayed for result in first} == {False}
    assert {result.replayed for result in again} == {True}
    assert Message.objects.count() == 3
    assert IdempotencyKey.objects.count() == 1


@pytest.mark.django_db
def test_a_claim_that_does_not_hold_leaves_its_neighbours_alone() -> None:
    send("user.alice", claim=claim("used", b"1"))
    refused, fresh, plain = accept(
        [draft(claim=claim("used", b"2")), draft("user.bob", claim=claim("new")), draft("user.carol")]
    )
    assert refused.refused is not None
    assert [result.accepted[0].topic for result in (fresh, plain)] == ["user.bob", "user.carol"]


@pytest.mark.django_db
def test_what_was_refused_before_keeps_its_place_in_the_reply_and_in_its_repetition() -> None:
    refusal = Refusal(ApiError(403, "denied", "Not there.", fields={"to": "no"}), claim())
    first = accept([draft("user.alice", claim=claim()), refusal, draft("user.bob", claim=claim())])
    again = accept([refusal, draft("user.carol", claim=claim()), refusal])  # By now it may less and more.
    for results in (first, again):
        assert [[one.topic for one in result.accepted] for result in results] == [["user.alice"], [], ["user.bob"]]
        error = results[1].refused
        assert error is not None
        assert (error.status, error.as_dict()) == (403, refusal.error.as_dict())
    assert [result.accepted for result in again] == [result.accepted for result in first]
    assert {result.replayed for result in again} == {True}
    assert stored() == [("user.alice", 1), ("user.bob", 1)]


@pytest.mark.django_db
def test_a_refusal_without_a_claim_touches_nothing(django_assert_num_queries: Any) -> None:
    error = ApiError(403, "denied", "Not there.")
    with django_assert_num_queries(0):
        assert accept([Refusal(error)])[0].refused is error


@pytest.mark.django_db
def test_an_ephemeral_message_with_a_claim_goes_out_once(
    published: list[Event], django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        first, again = send(store=False, claim=claim()), send(store=False, claim=claim())
    assert first.accepted == again.accepted
    assert len(published) == 1


@pytest.mark.django_db
def test_a_key_is_kept_for_fourteen_days() -> None:
    with time_machine.travel(NOW, tick=False) as clock:
        send(claim=claim())
        clock.move_to(NOW + timedelta(days=13, hours=23))
        idempotency.purge()
        assert send(claim=claim()).replayed
        clock.move_to(NOW + timedelta(days=14, hours=1))
        idempotency.purge()
        assert not IdempotencyKey.objects.exists()
        assert not send(claim=claim()).replayed


@pytest.mark.parametrize("key", ["", "x" * 201, "naïve", "line\nfeed", "\0"])
def test_a_key_that_is_not_printable_ascii_is_refused(key: str) -> None:
    with pytest.raises(ApiError) as refused:
        claim(key)
    assert refused.value.status == 400


@pytest.mark.django_db(transaction=True)
def test_an_equal_request_that_is_still_running_is_refused_and_not_carried_out_twice() -> None:
    claimed, let_go = threading.Event(), threading.Event()

    def first() -> None:
        with transaction.atomic():
            send(claim=claim())
            claimed.set()
            assert let_go.wait(PATIENCE)

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(with_own_connection(first))
        assert claimed.wait(PATIENCE)
        try:
            # SQLite has one writer at a time: the second waits for the database itself.
            wanted = OperationalError if connection.vendor == "sqlite" else ApiError
            with pytest.raises(wanted) as refused, impatient():
                send(claim=claim())
            if isinstance(refused.value, ApiError):
                assert (refused.value.status, refused.value.retry_after) == (409, 1)
        finally:
            let_go.set()
            running.result(PATIENCE)
            connection.close()
    assert send(claim=claim()).replayed
    assert Message.objects.count() == 1


@contextmanager
def impatient() -> Iterator[None]:
    """Waits for locks for a tenth of a second only."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("PRAGMA busy_timeout = 100")
            yield
        else:
            with transaction.atomic():
                cursor.execute("SET LOCAL lock_timeout = '100ms'")
                yield


# --- Many at once ---------------------------------------------------------------------------------


def with_own_connection(work: Callable[..., Any]) -> Callable[..., Any]:
    """For a thread: its database connection goes back when the work is done, as at the end of a request."""

    def run(*args: Any) -> Any:
        try:
            return work(*args)
        finally:
            connections.close_all()

    return run


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Runs `work(n)` in `count` threads that begin together -> what they return."""
    together = threading.Barrier(count)

    def run(number: int) -> Any:
        together.wait(PATIENCE)
        return with_own_connection(work)(number)

    with ThreadPoolExecutor(count) as threads:
        return [future.result(PATIENCE) for future in [threads.submit(run, number) for number in range(count)]]


@pytest.fixture
def watched() -> Iterator[Callable[[], int]]:
    """A reader that looks at the log again and again, for as long as the test writes.

    Whoever sees a topic's offset k must see all below it: then offsets are given in the order of commits.
    Calling it ends the reader -> how often it looked.
    """
    done = threading.Event()

    def look() -> int:
        looks = 0
        while not done.is_set():
            topics = Message.objects.values("topic").annotate(
                least=Min("offset"), most=Max("offset"), count=Count("offset")
            )
            for seen in topics:
                assert (seen["least"], seen["most"]) == (1, seen["count"]), "an offset came before one below it"
            looks += 1
        return looks

    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(with_own_connection(look))

        def finish() -> int:
            done.set()
            return int(looking.result(PATIENCE))

        try:
            yield finish
        finally:
            done.set()


@pytest.mark.django_db(transaction=True)
def test_fifty_publishers_on_one_topic_get_offsets_in_the_order_of_commits(watched: Callable[[], int]) -> None:
    def publish(number: int) -> list[int | None]:
        offsets = []
        for _ in range(4):
            offsets.append(send("topic.room", data=b"%d" % number).accepted[0].offset)
            connection.close()
        return offsets

    given = at_once(50, publish)
    assert watched() > 0
    for offsets in given:
        assert offsets == sorted(offsets)
    assert sorted(offset for offsets in given for offset in offsets) == list(range(1, 201))
    assert stored() == [("topic.room", offset) for offset in range(1, 201)]
    assert Topic.objects.get().head == 200
    times = list(Message.objects.order_by("offset").values_list("created_at", flat=True))
    assert times == sorted(times)


@pytest.mark.django_db(transaction=True)
def test_fifty_publishers_on_a_thousand_topics_do_not_deadlock(
    watched: Callable[[], int], published: list[Event]
) -> None:
    def publish(number: int) -> None:
        shuffle = random.Random(number)
        for _ in range(3):
            names = [f"topic.{n}" for n in shuffle.sample(range(1000), 60)]
            accept([draft(name) for name in names])
            connection.close()

    at_once(50, publish)
    assert watched() > 0
    assert Message.objects.count() == 50 * 3 * 60
    heads = dict(Topic.objects.values_list("name", "head"))
    for topic in Message.objects.values("topic__name").annotate(count=Count("pk"), most=Max("offset")):
        assert topic["count"] == topic["most"] == heads[topic["topic__name"]]
    sent = Counter((event.topic, event.offset) for event in published)
    assert len(sent) == 50 * 3 * 60
    assert set(sent.values()) == {1}


@pytest.mark.django_db(transaction=True)
def test_one_idempotency_key_a_hundred_times_at_once_is_one_message() -> None:
    _, key = api_keys.create("acme-backend")
    headers = {"authorization": f"Bearer {key}", "idempotency-key": "order-1"}
    body = {"to": {"user": "alice"}, "data": {"text": "Your order is on its way."}}

    def post(_number: int) -> tuple[int, bytes, bool]:
        reply = Client().post("/api/notifications", body, content_type="application/json", headers=headers)
        return reply.status_code, reply.content, reply.headers.get("Idempotent-Replayed") == "true"

    replies = at_once(100, post)
    assert {status for status, _, _ in replies} == {202}
    assert len({content for _, content, _ in replies}) == 1
    assert Counter(replayed for _, _, replayed in replies) == {True: 99, False: 1}
    assert stored() == [("user.alice", 1)]


MIGRATE = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
"""
PUBLISHER = """
import sys, django
django.setup()
from notifications.log import Draft, accept
for n in range(40):
    accept([Draft(["topic.room", f"user.{sys.argv[1]}", f"topic.{n % 5}"], b"1")])
"""


@pytest.mark.skipif(os.environ.get("FANFARE_TEST_DATABASE") == "postgres", reason="about SQLite only")
def test_eight_processes_that_write_to_one_sqlite_file_are_never_told_that_it_is_locked(tmp_path: Path) -> None:
    python = [sys.executable, "-W", "ignore", "-c"]
    root = Path(__file__).parents[2]
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "FANFARE_HOME": str(tmp_path),
        "DATABASE_URL": f"sqlite:///{tmp_path / 'log.sqlite3'}",
        "PYTHONPATH": str(root),
    }
    subprocess.run([*python, MIGRATE], cwd=root, env=environment, check=True, timeout=PATIENCE)
    processes = [
        subprocess.Popen([*python, PUBLISHER, str(n)], cwd=root, env=environment, stderr=subprocess.PIPE, text=True)
        for n in range(8)
    ]
    try:
        errors = [process.communicate(timeout=PATIENCE)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * 8, errors
    assert not any("locked" in error for error in errors)
    with closing(sqlite3.connect(tmp_path / "log.sqlite3")) as database:
        heads = dict(database.execute("SELECT name, head FROM notifications_topic"))
        (count,) = database.execute("SELECT count(*) FROM notifications_message").fetchone()
    assert heads["topic.room"] == 320
    assert count == sum(heads.values()) == 960
