"""The table: what nobody fetches by push is lent to who receives it, to one at a time, until it is acknowledged."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.errors import ApiError
from adapters import fetching
from adapters.base import Target
from adapters.models import Destination, QueuedEvent
from adapters.table import Table
from realtime.database import in_database
from tests.accounts.calling import at_once, service, user
from tests.adapters.contract import AdapterContract, Arrived, Side, parcel
from tests.adapters.tables import lend, make, put, time_is_up

EVENTS = 200


# --- The adapter ----------------------------------------------------------------------------------


class TableSide(Side):
    def __init__(self, table: Destination) -> None:
        self.target = Target(table.id, table.name, "")

    async def arrived(self) -> Sequence[Arrived]:
        return await in_database(self._rows)

    def _rows(self) -> list[Arrived]:
        rows = QueuedEvent.objects.filter(destination=self.target.id).order_by("visible_at", "id")
        return [Arrived(id, body.encode()) for id, body in rows.values_list("event_id", "body")]

    @asynccontextmanager
    async def broken(self) -> AsyncIterator[None]:
        """The database lacks the table of events."""
        await in_database(_execute, "ALTER TABLE adapters_queuedevent RENAME TO adapters_away")
        try:
            yield
        finally:
            await in_database(_execute, "ALTER TABLE adapters_away RENAME TO adapters_queuedevent")


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.django_db(transaction=True)
class TestTable(AdapterContract):
    adapter_class = Table
    nonsense = ("https://example.com/", "table", " ")

    @pytest.fixture
    def side(self) -> Side:
        return TableSide(make())

    async def test_a_repetition_after_its_acknowledgement_comes_again(self, side: Side) -> None:
        table, sent = Table(side.target), [parcel("once")]
        for _ in range(3):
            await table.publish(sent)
        (first,) = await in_database(fetching.receive, [side.target.id], 10, 30)
        await table.publish(sent)
        assert await in_database(fetching.receive, [side.target.id], 10, 30) == []
        assert await in_database(fetching.acknowledge, [first.receipt]) == 1
        await table.publish(sent)
        (again,) = await in_database(fetching.receive, [side.target.id], 10, 30)
        assert (again.id, again.received) == (first.id, 1)

    async def test_a_destination_that_was_deleted_is_a_failure(self, side: Side) -> None:
        await in_database(Destination.objects.all().delete)
        with pytest.raises(Exception, match=r"(?i)foreign key"):
            await Table(side.target).publish([parcel()])

    async def test_check_says_how_many_wait_and_for_how_long(self, side: Side) -> None:
        table = Table(side.target)
        assert await table.check() == "no event waits"
        await table.publish([parcel(), parcel()])
        await in_database(QueuedEvent.objects.update, created_at=timezone.now() - timedelta(seconds=90))
        assert await table.check() == "2 events wait, the oldest for 90 s"


@pytest.mark.any_database
@pytest.mark.parametrize("days", [0, -1, 14.5, "4", None])
def test_retention_is_from_a_moment_to_fourteen_days(days: object) -> None:
    for good in (0.5, 14):
        msgspec.convert({"retention_days": good}, Table.Options)
    with pytest.raises(msgspec.ValidationError, match="retention_days"):
        msgspec.convert({"retention_days": days}, Table.Options)


# --- Lending --------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_eight_who_receive_at_once_get_each_event_once() -> None:
    tables = [make("a"), make("b")]
    ids = {id for table in tables for id in put(table, EVENTS // 2)}

    def fetch_all() -> list[fetching.Fetched]:
        mine: list[fetching.Fetched] = []
        while QueuedEvent.objects.filter(received=0).exists():
            mine += lend(*tables)
        return mine

    shares = at_once(8, fetch_all)
    got = [one for share in shares for one in share]
    assert {one.id for one in got} == ids
    assert len(got) == len({one.receipt for one in got}) == EVENTS
    assert {one.received for one in got} == {1}
    assert sum(at_once(8, lambda: fetching.acknowledge([one.receipt for one in got]))) == EVENTS


@pytest.mark.django_db
def test_what_is_not_acknowledged_in_time_comes_again_and_its_old_receipt_is_worth_nothing() -> None:
    table = make()
    ids = put(table, 3)
    first = lend(table)
    assert [one.id for one in first] == ids
    assert lend(table) == []
    assert fetching.acknowledge([first[0].receipt]) == 1
    time_is_up()
    second = lend(table)
    assert [(one.id, one.received) for one in second] == [(ids[1], 2), (ids[2], 2)]
    assert not {one.receipt for one in first} & {one.receipt for one in second}
    assert fetching.acknowledge([one.receipt for one in first]) == 0
    assert fetching.acknowledge([one.receipt for one in second]) == 2
    assert fetching.acknowledge([one.receipt for one in second]) == 0
    assert not QueuedEvent.objects.exists()


@pytest.mark.django_db
def test_a_receipt_is_good_after_its_time_as_long_as_nobody_else_was_lent_the_event() -> None:
    table = make()
    put(table)
    (late,) = lend(table)
    time_is_up()
    assert fetching.acknowledge([late.receipt]) == 1


@pytest.mark.django_db
def test_it_is_lent_for_as_long_as_was_asked_for() -> None:
    table = make()
    put(table, 2)
    lend(table, most=1, visibility=0.3)
    lend(table, most=1, visibility=30)
    assert lend(table) == []
    time.sleep(0.4)
    assert [one.received for one in lend(table)] == [2]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "receipt", ["", ".", "x", "x.", "x.1", ".{pk}", "{token}", "{token}.", "{token}.²", f"{{token}}.{2**63}", "x.{pk}"]
)
def test_what_is_no_receipt_does_nothing(receipt: str) -> None:
    table = make()
    put(table)
    (one,) = lend(table)
    token, _, pk = one.receipt.partition(".")
    assert fetching.acknowledge([receipt.format(token=token, pk=pk)]) == 0
    assert QueuedEvent.objects.filter(receipt=one.receipt).exists()


@pytest.mark.django_db
def test_the_oldest_come_first_and_of_several_tables_the_one_where_it_has_waited_longest() -> None:
    a, b = make("a"), make("b")
    first, second, third = put(a, 2), put(b, 3), put(a, 1)
    assert [one.id for one in lend(b, a, most=2)] == first
    assert [one.id for one in lend(a, b)] == second + third


@pytest.mark.django_db
def test_what_came_back_comes_after_what_came_meanwhile_but_what_was_given_back_in_its_old_place() -> None:
    table = make()
    (slow, left), later = put(table, 2), put(table, 1)
    taken = lend(table, most=2)
    fetching.give_back([taken[1].receipt])
    time_is_up()
    got = lend(table)
    assert [(one.id, one.received) for one in got] == [(left, 1), (later[0], 1), (slow, 2)]
    fetching.give_back([taken[1].receipt])
    assert lend(table) == []


@pytest.mark.django_db
def test_without_a_name_all_enabled_tables_are_read_and_with_one_that_table() -> None:
    on, off = make("on"), make("off", enabled=False)
    Destination.objects.create(name="hook", kind="webhook", address="https://example.com/")
    assert fetching.tables() == [on.id]
    assert fetching.tables("off") == [off.id]
    for unknown in ("hook", "On", "nothing"):
        with pytest.raises(ApiError, match="no destination") as refused:
            fetching.tables(unknown)
        assert (refused.value.status, refused.value.code) == (404, "unknown_destination")


@pytest.mark.django_db
def test_what_nobody_fetches_is_deleted_after_its_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "ROWS_AT_ONCE", 2)
    table = make()
    old, kept = put(table, 5), put(table, 1)
    (lent,) = lend(table, most=1)
    QueuedEvent.objects.filter(event_id__in=old).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert fetching.backlog(table.id)[0] == 1
    assert [one.id for one in lend(table)] == kept
    assert fetching.purge() == 5
    assert fetching.purge() == 0
    assert list(QueuedEvent.objects.values_list("event_id", flat=True)) == kept
    assert fetching.acknowledge([lent.receipt]) == 0


@pytest.mark.django_db
def test_a_long_queue_is_not_read_through() -> None:
    """Neither to lend nor to acknowledge nor to delete: each statement finds its rows by an index."""
    table = make()
    put(table, 20)
    with CaptureQueriesContext(connection) as queries:
        assert fetching.acknowledge([one.receipt for one in lend(table)]) == 10
        fetching.purge()
    statements = [query["sql"] for query in queries if "queuedevent" in query["sql"]]
    assert len(statements) == 5
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        for statement in statements:
            cursor.execute(f"EXPLAIN {'QUERY PLAN ' if connection.vendor == 'sqlite' else ''}{statement}")
            plan = str(cursor.fetchall())
            assert "SCAN adapters_queuedevent" not in plan, plan
            assert "Seq Scan on adapters_queuedevent" not in plan, plan
            assert "TEMP B-TREE" not in plan, plan


# --- Acknowledging over HTTP ----------------------------------------------------------------------


@pytest.mark.django_db
def test_only_a_service_with_the_scope_acknowledges() -> None:
    table = make()
    put(table, 2)
    receipts = [one.receipt for one in lend(table)]
    for stranger in (service("deliveries:read", "admin:write"), user("alice")):
        assert stranger.refusal("POST", "client-messages/ack", {"receipts": receipts}) == (403, "scope_missing")
    assert QueuedEvent.objects.count() == 2
    backend = service("deliveries:write")
    assert backend.does("POST", "client-messages/ack", {"receipts": [*receipts, "nonsense"]}) == {"acknowledged": 2}
    assert backend.does("POST", "client-messages/ack", {"receipts": receipts}) == {"acknowledged": 0}


@pytest.mark.django_db
def test_what_are_no_receipts_is_refused() -> None:
    backend = service()
    assert backend.refusal("POST", "client-messages/ack", {}) == (400, "malformed")
    for receipts in (None, "x", [], [""], [1], ["x" * 41], ["x"] * 101):
        assert backend.refusal("POST", "client-messages/ack", {"receipts": receipts}) == (400, "malformed"), receipts
