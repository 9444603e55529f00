"""Reading the log: what is there, what is hidden, in which order; and that every query finds its rows by an index."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
import time_machine
from django.db import connection, transaction
from django.test import Client

from accounts import api_keys, idempotency
from accounts.errors import ApiError
from accounts.idempotency import Claim
from accounts.models import IdempotencyKey
from accounts.principals import Kind, Principal
from notifications import history, retention
from notifications.log import Draft, accept, publish_due
from notifications.models import Message, Receipt, Topic
from notifications.receipts import Deed, receipt, receipt_all
from notifications.timeline import timeline
from realtime import bus
from realtime.frames import Event
from tests.credentials import mint

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
ROOM = "topic.room"


def send(topic: str = ROOM, data: Any = None, **rest: Any) -> str:
    """Stores one message -> its id."""
    (result,) = accept([Draft([topic], msgspec.json.encode(data), **rest)])
    return result.accepted[0].id


def search(topic: str = ROOM, **rest: Any) -> tuple[list[Any], Any]:
    """The data of the messages that a search finds, and where the next page begins."""
    asked: dict[str, Any] = {
        "start": NOW - timedelta(days=7),
        "end": NOW + timedelta(days=7),
        "types": [],
        "text": "",
        "reader": None,
        "before": None,
        "limit": 100,
    }
    messages, after = history.search(topic, **(asked | rest))
    return [msgspec.json.decode(message["data"]) for message in messages], after


def log(topic: str = ROOM, since: int = 0, limit: int = 100, reader: str | None = None) -> list[Any]:
    """The data of a topic's messages as the API's log route shows them."""
    page = history.topic_page(topic, since, limit, reader)
    return [msgspec.json.decode(message["data"]) for message in page["messages"]]


def events(topic: str = ROOM, after: int = 0, limit: int = 100) -> list[Any]:
    """The data of a topic's messages as the hub reads them."""
    return [msgspec.json.decode(event.body)["data"] for event in history.read(topic, after, limit).events]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> list[Event]:
    sent: list[Event] = []
    monkeypatch.setattr(bus, "publish", sent.extend)
    return sent


@pytest.fixture(autouse=True)
def clock(request: pytest.FixtureRequest) -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


# --- Order and pages ------------------------------------------------------------------------------


@pytest.mark.django_db
def test_the_log_is_read_oldest_first_and_searched_newest_first() -> None:
    for n in (1, 2, 3):
        send(data=n)
    assert log() == events() == [1, 2, 3]
    assert search()[0] == [3, 2, 1]


@pytest.mark.django_db
def test_a_topic_without_messages_is_an_empty_log_and_reading_it_writes_nothing() -> None:
    assert history.topic_page(ROOM, 0, 10, None) == {"messages": [], "epoch": None, "head": 0, "tail": 1}
    page = history.read(ROOM, 0, 10)
    assert (page.epoch, page.head, page.through, list(page.events)) == (None, 0, 0, [])
    assert history.positions([ROOM, "all"]) == {ROOM: (history.MISSING), "all": (history.MISSING)}
    assert not Topic.objects.exists()


@pytest.mark.django_db
def test_the_log_goes_on_after_an_offset_and_says_how_far_it_reached() -> None:
    for n in range(1, 8):
        send(data=n)
    page = history.read(ROOM, 2, 3)
    assert [event.offset for event in page.events] == [3, 4, 5]
    assert (page.head, page.through) == (7, 5)
    page = history.read(ROOM, 5, 3)
    assert ([event.offset for event in page.events], page.through) == ([6, 7], 7)
    assert history.read(ROOM, 7, 3).through == 7
    assert log(since=5) == [6, 7]


@pytest.mark.django_db
def test_a_page_reaches_the_head_when_the_last_messages_are_hidden() -> None:
    send(data=1)
    recall(send(data=2))
    page = history.read(ROOM, 0, 10)
    assert ([event.offset for event in page.events], page.through) == ([1], 2)


@pytest.mark.django_db
def test_positions_are_those_of_the_topics_asked_for() -> None:
    send("user.alice"), send("user.alice"), send("user.bob")
    found = history.positions(["user.alice", "user.carol"])
    assert found["user.alice"].head == 2
    assert found["user.alice"].epoch == Topic.objects.get(name="user.alice").epoch
    assert found["user.carol"] == history.MISSING
    assert set(found) == {"user.alice", "user.carol"}


@pytest.mark.django_db
def test_pages_hold_every_message_once_though_all_have_the_same_time() -> None:
    accept([Draft([ROOM], b"%d" % n) for n in range(11)])
    assert Message.objects.values("created_at").distinct().count() == 1
    seen, place, pages = [], None, 0
    while True:
        found, place = search(before=place, limit=3)
        seen += found
        pages += 1
        if place is None:
            break
    assert seen == list(range(10, -1, -1))
    assert pages == 4


@pytest.mark.django_db
def test_a_page_that_ends_with_the_last_message_has_no_next() -> None:
    accept([Draft([ROOM], b"%d" % n) for n in range(4)])
    found, place = search(limit=2)
    assert (found, place is None) == ([3, 2], False)
    assert search(before=place, limit=2) == ([1, 0], None)


@pytest.mark.django_db
def test_messages_that_come_in_between_do_not_move_the_pages(clock: time_machine.Traveller) -> None:
    accept([Draft([ROOM], b"%d" % n) for n in range(4)])
    _, place = search(limit=2)
    clock.shift(1)
    send(data="new")
    assert search(before=place, limit=2) == ([1, 0], None)


@pytest.mark.django_db
def test_a_search_has_a_time_range_types_and_a_text(clock: time_machine.Traveller) -> None:
    send(data={"text": "Round trip"}, type="offer")
    clock.shift(timedelta(hours=1))
    send(data={"text": "a TRIP to Bodø"}, type="news")
    clock.shift(timedelta(hours=1))
    send(data=[1], type="alert")
    assert len(search()[0]) == 3
    assert search(types=["news", "alert"])[0] == [[1], {"text": "a TRIP to Bodø"}]
    assert len(search(text="trip")[0]) == 2
    assert search(text="Bodø")[0] == [{"text": "a TRIP to Bodø"}]
    assert search(text="100%")[0] == search(text="_rip to")[0] == []
    assert search(start=NOW, end=NOW)[0] == [{"text": "Round trip"}]
    assert search(start=NOW + timedelta(seconds=1), end=NOW + timedelta(hours=1))[0] == [{"text": "a TRIP to Bodø"}]


# --- What is hidden -------------------------------------------------------------------------------


def everywhere(reader: str | None = None) -> list[list[Any]]:
    return [events(), log(reader=reader), search(reader=reader)[0]]


@pytest.mark.django_db
def test_an_expired_message_is_hidden_at_once(clock: time_machine.Traveller) -> None:
    send(data="short-lived", ttl=60)
    assert everywhere() == [["short-lived"]] * 3
    clock.shift(60)
    assert everywhere() == [[]] * 3


@pytest.mark.django_db
def test_a_recalled_message_is_hidden_at_once() -> None:
    message_id = send(data="a mistake")
    send(data="right")
    recall(message_id)
    assert everywhere() == [["right"]] * 3


@pytest.mark.django_db
def test_a_scheduled_message_is_hidden_until_it_is_due(clock: time_machine.Traveller) -> None:
    send(data="later", send_at=NOW + timedelta(hours=1))
    send(data="now")
    assert everywhere() == [["now"]] * 3
    clock.shift(timedelta(hours=1))
    assert publish_due() == 1
    assert events() == ["now", "later"]


@pytest.mark.django_db
def test_a_message_is_hidden_from_those_whom_it_excludes_only() -> None:
    send("account.acme", data="surprise", exclude_users=frozenset({"alice"}))
    send("account.acme", data="for all")
    assert log("account.acme", reader="alice") == search("account.acme", reader="alice")[0] == ["for all"]
    assert log("account.acme", reader="bob") == ["surprise", "for all"]
    assert len(search("account.acme", reader="bob")[0]) == len(search("account.acme")[0]) == 2
    first, second = history.read("account.acme", 0, 10).events
    assert (first.exclude, second.exclude) == (frozenset({"alice"}), frozenset())


@pytest.mark.django_db
def test_who_has_a_receipt_of_another_sort_still_sees_a_message_that_excludes_somebody_else() -> None:
    message_id = send("account.acme", data="surprise", exclude_users=frozenset({"alice"}))
    Receipt.objects.create(message_id=message_id, user="bob")
    assert log("account.acme", reader="bob") == search("account.acme", reader="bob")[0] == ["surprise"]
    assert history.is_for(Message.objects.get(pk=message_id), "bob")
    assert not history.is_for(Message.objects.get(pk=message_id), "alice")


# --- Recall ---------------------------------------------------------------------------------------


def recall(message_id: str) -> list[str]:
    return history.recall(Message.objects.filter(pk=message_id))


@pytest.mark.django_db(transaction=True)
def test_recalling_tells_listeners_once(published: list[Event]) -> None:
    message_id = send()
    published.clear()
    assert recall(message_id) == [message_id]
    assert recall(message_id) == []
    (event,) = published
    assert (event.topic, event.offset, event.recalls) == (ROOM, None, 1)
    assert msgspec.json.decode(event.body) == {"event": "recalled", "topic": ROOM, "offset": 1, "id": message_id}


@pytest.mark.django_db(transaction=True)
def test_recalling_a_scheduled_message_cancels_it_quietly(
    published: list[Event], clock: time_machine.Traveller
) -> None:
    message_id = send(send_at=NOW + timedelta(hours=1))
    assert recall(message_id) == [message_id]
    clock.shift(timedelta(hours=2))
    assert publish_due() == 0
    assert published == []


@pytest.mark.django_db(transaction=True)
def test_a_recall_that_is_rolled_back_tells_nobody(published: list[Event]) -> None:
    message_id = send()
    published.clear()
    with transaction.atomic():
        recall(message_id)
        transaction.set_rollback(True)
    assert published == []
    assert len(events()) == 1


@pytest.mark.django_db
def test_a_recall_takes_a_bounded_number_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RECALL_AT_ONCE", 2)
    for _ in range(3):
        send(key="order-7")
    labelled = Message.objects.filter(key="order-7")
    assert [len(history.recall(labelled)) for _ in range(3)] == [2, 1, 0]


# --- One message ----------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_unknown_message_is_a_404() -> None:
    with pytest.raises(ApiError) as refused:
        history.get(UUID(int=7))
    assert (refused.value.status, refused.value.code) == (404, "unknown_message")


def steps(message_id: str) -> list[str]:
    return [step["what"] for step in timeline(history.get(UUID(message_id)), None).steps]


@pytest.mark.django_db
def test_the_timeline_tells_what_happened_so_far() -> None:
    # Ids have the time of the machine itself, which nobody can travel in.
    real = time_machine.escape_hatch.datetime.datetime.now(UTC)
    with time_machine.travel(real + timedelta(minutes=1), tick=False) as clock:
        plain, short, later = send(), send(ttl=60), send(send_at=real + timedelta(minutes=30))
        assert steps(plain) == ["accepted", "published"]
        assert steps(later) == ["accepted", "scheduled"]
        clock.shift(timedelta(hours=1))
        publish_due()
        recall(plain)
        assert steps(plain) == ["accepted", "published", "recalled"]
        assert steps(short) == ["accepted", "published", "expired"]
        assert steps(later) == ["accepted", "scheduled", "published"]


# --- Plans ----------------------------------------------------------------------------------------

TABLES = "notifications_(message|topic|receipt|idempotencykey)"
DAYS = 60
TOPICS = 2000


def uuid_of(moment: datetime, number: int) -> UUID:
    """An id as a message gets it that is accepted at this time."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | number)


@pytest.fixture
def full_log(clock: time_machine.Traveller) -> None:
    """Sixty days of a log: enough that the planner of PostgreSQL goes by its indexes, if it has any."""
    topics = Topic.objects.bulk_create(Topic(name=f"user.{n}", head=10) for n in range(TOPICS))
    step = timedelta(days=DAYS) / (TOPICS * 10)
    messages = []
    for number in range(TOPICS * 10):
        offset, at = number // TOPICS + 1, NOW - timedelta(days=DAYS) + number * step
        scheduled = number % 400 == 399
        messages.append(
            Message(
                id=uuid_of(at, number),
                topic=topics[number % TOPICS],
                offset=None if scheduled else offset,
                type="message",
                data='{"text":"Something to fill the page with, as messages do."}',
                key=f"order-{number}" if number % 50 == 0 else "",
                created_at=at,
                send_at=NOW + (number - 10_000) * step if scheduled else None,
                expires_at=at + timedelta(days=DAYS - 1) if number % 100 == 7 else None,
                recalled_at=at if number % 200 == 9 else None,
                has_exclusions=number % 20 == 0,
            )
        )
    Message.objects.bulk_create(messages)
    Receipt.objects.bulk_create(
        Receipt(message=message, user=user, excluded=True)
        for message in messages
        if message.has_exclusions
        for user in ["alice", *(f"colleague {n}" for n in range(9))]
    )
    IdempotencyKey.objects.bulk_create(
        IdempotencyKey(principal="service:acme", route="batch", key=str(n), created_at=NOW - n * timedelta(minutes=5))
        for n in range(5000)
    )
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("ANALYZE")


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    """The statements that run, with their parameters apart: SQLite plans before it is told them."""
    seen: list[tuple[str, Any]] = []

    def note(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if re.search(TABLES, sql) and re.match("SELECT|UPDATE|DELETE|INSERT", sql):
            seen.append((sql, params))
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        yield seen


def scans(sql: str, params: Any) -> list[str]:
    """The steps of the plan that read a whole table of the log, or a whole index of it."""
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {sql}", params)
            return [str(row[3]) for row in cursor.fetchall() if re.search(rf"SCAN {TABLES}", row[3])]
        cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}", params)
        return [scan for root in cursor.fetchone()[0] for scan in _scans(root["Plan"])]


def _scans(node: dict[str, Any]) -> Iterator[str]:
    if re.search(TABLES, node.get("Relation Name", "")) and "Operation" not in node:
        by_index = "Index Cond" in node or node["Node Type"] == "Bitmap Heap Scan"
        if not by_index and node["Node Type"] != "Tid Scan":
            yield f"{node['Node Type']} on {node['Relation Name']}: {node.get('Filter')}"
    for inner in node.get("Plans", []):
        yield from _scans(inner)


def service() -> Client:
    _, key = api_keys.create("acme-backend")
    return Client(headers={"authorization": f"Bearer {key}"})


def user(name: str) -> Client:
    return Client(headers={"authorization": f"Bearer {mint(name, ttl=60)}"})


def claims(count: int) -> list[Claim]:
    principal = Principal(Kind.SERVICE, "acme")
    return [Claim.of(principal, "batch", str(n), b"") for n in range(count)]


PLANS: dict[str, Callable[[], Any]] = {
    "the log of a topic": lambda: history.read("user.7", 2, 100),
    "the log of a topic, for a user": lambda: history.topic_page("user.7", 2, 100, "alice"),
    "a page of history": lambda: search("user.7", start=NOW - timedelta(days=7), end=NOW),
    "a page of history, for a user": lambda: search("user.0", start=NOW - timedelta(days=7), end=NOW, reader="alice"),
    "a later page of history": lambda: search("user.7", start=NOW - timedelta(days=30), before=(NOW, 8), limit=5),
    "a page of one type and text": lambda: search("user.7", types=["message"], text="page"),
    "a message through the API": lambda: user("alice").get(f"/api/notifications/{uuid_of(NOW, 1)}"),
    "an inbox": lambda: user("7").get("/api/inbox"),
    "what is unread in it": lambda: user("7").get("/api/inbox?unread=1"),
    "what is archived in it": lambda: user("7").get("/api/inbox?archived=1"),
    "a receipt": lambda: receipt("7", Deed.READ, [uuid_of(NOW - timedelta(days=DAYS), 7)]),
    "receipts for all": lambda: receipt_all("7", Deed.READ),
    "positions": lambda: history.positions([f"user.{n}" for n in range(10)]),
    "due messages": publish_due,
    "recall by key": lambda: service().delete("/api/notifications?key=order-100"),
    "recall by key and user": lambda: service().delete("/api/notifications?key=order-100&user=100"),
    "recall of one": lambda: recall(str(uuid_of(NOW - timedelta(days=DAYS), 0))),
    "purge": retention.purge,
    "purge of claims": idempotency.purge,
    "claims": lambda: accept([Draft(["user.7"], b"1", claim=claim) for claim in claims(20)]),
}


@pytest.mark.django_db
def test_every_query_finds_its_rows_by_an_index(full_log: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (retention, idempotency):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 50)  # As few among our rows as 1000 are among a real log's.
    found: dict[str, list[str]] = {}
    for name, work in PLANS.items():
        with statements() as seen:
            work()
        assert seen, name
        for sql, params in seen:
            if scanned := scans(sql, params):
                found[f"{name}: {sql[:2000]}"] = scanned
    assert not found, "\n".join(f"{name}\n    {scanned}" for name, scanned in found.items())


@pytest.mark.django_db
def test_what_reads_a_whole_table_would_be_found(full_log: None) -> None:
    with statements() as seen:
        list(Message.objects.filter(data="x"))
        Message.objects.count()
        Message.objects.filter(sender="x").update(sender="y")
    assert all(scans(sql, params) for sql, params in seen[:2])
