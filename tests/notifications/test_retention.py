"""What leaves the log, and when; and messages that enter it at their time."""

import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import time_machine
from django.conf import LazySettings
from django.core.management import call_command
from django.db import connection, connections
from django.utils import timezone

from notifications import history, retention, tasks
from notifications.log import Draft, accept, publish_due
from notifications.models import Message, Receipt, Topic
from notifications.timeline import timeline
from realtime import bus
from realtime.frames import Event

PATIENCE = 40.0
DAY = timedelta(days=1)
ROOM = "topic.room"


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """Time stands still, just after the machine's own: ids carry that, and nobody can travel in it."""
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=1), tick=False) as traveller:
        yield traveller


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    sent: list[Event] = []
    monkeypatch.setattr(bus, "publish", sent.extend)
    return sent


def send(topic: str = ROOM, **rest: Any) -> str:
    (result,) = accept([Draft([topic], b"{}", **rest)])
    return result.accepted[0].id


def offsets(topic: str = ROOM) -> list[int | None]:
    """Those that are stored, hidden or not."""
    return list(Message.objects.filter(topic__name=topic).order_by("offset").values_list("offset", flat=True))


def seen(topic: str = ROOM, after: int = 0) -> list[int | None]:
    return [event.offset for event in history.read(topic, after, 1000).events]


# --- What is hidden is purged ---------------------------------------------------------------------


@pytest.mark.django_db
def test_an_expired_message_is_hidden_at_once_and_purged(clock: time_machine.Traveller) -> None:
    send(ttl=60, exclude_users=frozenset({"bob"})), send()
    clock.shift(59)
    assert (seen(), retention.purge()) == ([1, 2], 0)
    clock.shift(1)
    assert (seen(), offsets()) == ([2], [1, 2])
    assert (retention.purge(), offsets()) == (1, [2])
    assert not Receipt.objects.exists()


@pytest.mark.django_db
def test_a_recalled_message_is_hidden_at_once_and_purged_after_an_hour(clock: time_machine.Traveller) -> None:
    message_id = send()
    history.recall(Message.objects.filter(pk=message_id))
    assert (seen(), retention.purge()) == ([], 0)
    assert [step["what"] for step in timeline(history.get(UUID(message_id)), None).steps][-1] == "recalled"
    clock.shift(timedelta(hours=1))
    assert (retention.purge(), offsets()) == (1, [])


@pytest.mark.django_db
def test_purging_what_is_hidden_moves_no_tail_for_nobody_has_missed_it(clock: time_machine.Traveller) -> None:
    send(ttl=60), send()
    clock.shift(60)
    retention.purge()
    page = history.read(ROOM, 0, 10)
    assert (page.tail, page.head, page.through) == (1, 2, 2)


# --- Retention ------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_old_messages_go_and_the_tail_moves_behind_them(clock: time_machine.Traveller, settings: LazySettings) -> None:
    settings.RETENTION_DAYS = 30
    send(), send(), send("user.bob")
    clock.shift(20 * DAY)
    send()
    clock.shift(10 * DAY)
    assert retention.purge() == 0
    clock.shift(timedelta(seconds=1))
    assert retention.purge() == 3
    assert (offsets(), offsets("user.bob")) == ([3], [])
    assert list(Topic.objects.order_by("name").values_list("name", "tail", "head")) == [
        (ROOM, 3, 3),
        ("user.bob", 2, 1),
    ]
    assert send()
    assert offsets() == [3, 4]


@pytest.mark.django_db
def test_retention_has_its_setting(clock: time_machine.Traveller, settings: LazySettings) -> None:
    send()
    clock.shift(3 * DAY)
    settings.RETENTION_DAYS = 2
    assert retention.purge() == 1


@pytest.mark.django_db
def test_a_reader_before_the_tail_cannot_recover_and_one_at_it_can(clock: time_machine.Traveller) -> None:
    for _ in range(4):
        send()
    clock.shift(40 * DAY)
    send()
    retention.purge()

    def can_recover(since: int) -> bool:
        """As the hub asks it of a page."""
        page = history.read(ROOM, since, 100)
        return page.tail - 1 <= since <= page.head == page.through

    assert [can_recover(since) for since in range(7)] == [False, False, False, False, True, True, False]
    assert seen(after=4) == [5]


@pytest.mark.django_db
def test_a_purge_between_the_two_queries_of_a_read_is_not_a_silent_loss(clock: time_machine.Traveller) -> None:
    for _ in range(3):
        send()
    clock.shift(40 * DAY)
    send()
    purged = threading.Event()

    def purge_first(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if 'FROM "notifications_message"' in sql and not purged.is_set():
            purged.set()
            retention.purge()
        return execute(sql, *rest)

    with connection.execute_wrapper(purge_first):
        page = history.read(ROOM, 0, 100)
    assert purged.is_set()
    assert [event.offset for event in page.events] == [4]
    assert page.tail == 4


@pytest.mark.django_db
def test_many_old_messages_go_in_small_transactions(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 7)
    accept([Draft([f"user.{n % 5}"], b"1", exclude_users=frozenset({"bob"})) for n in range(40)])
    accept([Draft(["all"], b"1", ttl=60) for _ in range(15)])
    clock.shift(31 * DAY)
    send()
    assert retention.purge() == 55
    assert Message.objects.count() == 1
    assert set(Topic.objects.filter(name__startswith="user.").values_list("tail", "head")) == {(9, 8)}


@pytest.mark.django_db
def test_a_scheduled_message_is_as_old_as_its_publication_and_not_as_its_id(
    clock: time_machine.Traveller, settings: LazySettings
) -> None:
    send(send_at=timezone.now() + 40 * DAY, key="later"), send(key="now")
    clock.shift(35 * DAY)
    assert retention.purge() == 1
    assert list(Message.objects.values_list("key", flat=True)) == ["later"]
    clock.shift(5 * DAY)
    assert publish_due() == 1
    assert retention.purge() == 0
    assert seen() == [2]
    clock.shift(31 * DAY)
    assert retention.purge() == 1


@pytest.mark.django_db
def test_the_beat_task_purges(clock: time_machine.Traveller) -> None:
    send(ttl=60)
    clock.shift(60)
    tasks.purge()
    assert not Message.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_retention_and_publishers_do_not_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"topic.{n:03}" for n in range(200)]
    # Rows whose order is the opposite of their names', in which `accept` locks them.
    topics = Topic.objects.bulk_create(Topic(name=name, head=10) for name in reversed(names))
    long_ago = timezone.now() - 60 * DAY
    monkeypatch.setattr(retention, "ROWS_AT_ONCE", 250)
    for offset in range(1, 11):
        Message.objects.bulk_create(
            Message(
                id=UUID(int=(int(long_ago.timestamp() * 1000) << 80) + offset * 1000 + number),
                topic=topic,
                offset=offset,
                data="1",
                created_at=long_ago,
            )
            for number, topic in enumerate(topics)
        )
    over = threading.Event()

    def publish() -> int:
        rounds = 0
        while not over.is_set() or rounds == 0:
            accept([Draft([name], b"1") for name in names])
            connection.close()
            rounds += 1
        return rounds

    with ThreadPoolExecutor(3) as threads:
        publishers = [threads.submit(with_own_connection(publish)) for _ in range(3)]
        try:
            assert retention.purge() == 2000
        finally:
            over.set()
        rounds = sum(publisher.result(PATIENCE) for publisher in publishers)
    assert Message.objects.count() == rounds * len(names)
    assert set(Topic.objects.values_list("tail", "head")) == {(11, 10 + rounds)}


def with_own_connection(work: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        try:
            return work()
        finally:
            connections.close_all()

    return run


# --- Due ------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_due_messages_enter_the_log_in_the_order_of_their_times(
    clock: time_machine.Traveller, published: list[Event]
) -> None:
    now = timezone.now()
    for minutes, key in ((30, "third"), (10, "first"), (20, "second"), (90, "not yet")):
        send(send_at=now + timedelta(minutes=minutes), key=key, exclude_users=frozenset({"bob"}))
    clock.shift(timedelta(hours=1))
    assert publish_due() == 3
    rows = Message.objects.exclude(offset=None).order_by("offset").values_list("key", "offset", "created_at")
    assert list(rows) == [(key, n, timezone.now()) for n, key in enumerate(("first", "second", "third"), 1)]
    assert [(event.offset, event.exclude) for event in published] == [(n, frozenset({"bob"})) for n in (1, 2, 3)]
    assert {event.epoch for event in published} == {Topic.objects.get(name=ROOM).epoch}
    assert publish_due() == 0


@pytest.mark.django_db
def test_a_message_that_is_due_is_sent_in_chunks_until_none_is_left(clock: time_machine.Traveller) -> None:
    accept([Draft([ROOM], b"1", send_at=timezone.now() + timedelta(minutes=1)) for _ in range(5)])
    clock.shift(timedelta(minutes=1))
    assert [publish_due(limit=2) for _ in range(4)] == [2, 2, 1, 0]
    assert offsets() == [1, 2, 3, 4, 5]


@pytest.mark.django_db
def test_the_beat_task_publishes_what_is_due(clock: time_machine.Traveller) -> None:
    send(send_at=timezone.now() + timedelta(minutes=1))
    clock.shift(timedelta(minutes=1))
    tasks.publish_due()
    assert seen() == [1]


@pytest.mark.django_db(transaction=True)
def test_two_that_claim_due_messages_at_the_same_time_send_each_once(published: list[Event]) -> None:
    soon = timezone.now() + timedelta(hours=1)
    accept([Draft([f"user.{n % 7}"], b"1", send_at=soon) for n in range(210)])
    Message.objects.update(send_at=timezone.now())
    together = threading.Barrier(2)

    def claim() -> int:
        together.wait(PATIENCE)
        count = 0
        while published_now := publish_due(limit=20):
            count += published_now
        return count

    with ThreadPoolExecutor(2) as threads:
        claimers = [threads.submit(with_own_connection(claim)) for _ in range(2)]
        assert sum(claimer.result(PATIENCE) for claimer in claimers) == 210
    assert sorted((event.topic, event.offset) for event in published) == [
        (f"user.{n}", offset) for n in range(7) for offset in range(1, 31)
    ]


@pytest.mark.django_db
def test_new_epochs_rename_every_numbering_and_keep_the_messages() -> None:
    send(), send("user.bob")
    before = dict(Topic.objects.values_list("name", "epoch"))
    call_command("rotate_epochs", stdout=(said := io.StringIO()))
    assert said.getvalue() == "2 topics have a new epoch.\n"
    after = dict(Topic.objects.values_list("name", "epoch"))
    assert set(before) == set(after)
    assert not set(before.values()) & set(after.values())
    assert seen() == [1]
