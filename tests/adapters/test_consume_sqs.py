"""Records from queues of SQS: only what failed comes back, a group keeps its order, and each counts once."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from django.conf import LazySettings
from django.db import OperationalError
from moto.sqs import models as sqs_models

from adapters import ingest as ingesting
from adapters.aws import clients
from adapters.ingest import Outcome, Record
from adapters.ingest_settings import Source
from adapters.metrics import records
from adapters.models import FailedRecord
from adapters.sources import sqs
from notifications.models import Message
from tests.adapters.consuming import BAD, Queue, consuming, dead, good, taken, until
from tests.emulators import aws_sqs
from tests.emulators.aws import Aws

pytestmark = pytest.mark.django_db(transaction=True)

STATUSES = ("accepted", "refused", "dead")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    clients.forget()
    monkeypatch.setattr(sqs, "WAIT_SECONDS", 1)
    monkeypatch.setattr(sqs, "COMES_BACK_SECONDS", (1.0, 1.0))


@pytest.fixture
def queue(aws: Aws, settings: LazySettings) -> Queue:
    queue = Queue(aws)
    settings.INGEST_SOURCES = {"shop": {"kind": "notification", "queue": queue.url}}
    return queue


@pytest.fixture
def fifo(aws: Aws, settings: LazySettings) -> Queue:
    queue = Queue(aws, fifo=True)
    settings.INGEST_SOURCES = {"shop": {"kind": "notification", "queue": queue.url}}
    return queue


def test_records_are_taken_and_deleted(queue: Queue, aws: Aws) -> None:
    queue.send(*map(good, range(25)))
    with consuming("shop"):
        until(lambda: Message.objects.count() == 25)
        queue.until_empty()
    assert sorted(taken()) == list(range(25))
    assert aws.calls("DeleteMessage") == 0


def counted() -> Counter[str]:
    """What /metrics says of the source, by what became of its records."""
    return Counter({status: int(records.labels("shop", status)._value.get()) for status in STATUSES})


def test_of_a_batch_only_what_failed_comes_back_until_it_is_dead(
    queue: Queue, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.INGEST_TRIES = 3
    handed: list[list[bytes]] = []
    handle = ingesting._handle

    def noted(source: Source, batch: Sequence[Record]) -> list[Outcome]:
        handed.append([record.body for record in batch])
        return handle(source, batch)

    monkeypatch.setattr(ingesting, "_handle", noted)
    queue.send(good(1), BAD, good(2), "no JSON", good(3))
    before = counted()
    with consuming("shop"):
        until(lambda: len(dead()) == 2)
        queue.until_empty()
    assert sorted(taken()) == [1, 2, 3]
    bodies = [body for batch in handed for body in batch]
    assert bodies.count(good(1).encode()) == 1
    assert bodies.count(BAD.encode()) == 3
    assert counted() - before == Counter(accepted=3, refused=4, dead=2)


def test_what_cannot_be_deleted_is_deleted_later_and_counts_once(queue: Queue, aws: Aws) -> None:
    aws.fail("DeleteMessageBatch", times=2)
    queue.send(good(1), good(2))
    with consuming("shop"):
        queue.until_empty()
    assert sorted(taken()) == [1, 2]


def test_of_a_deletion_only_what_failed_is_tried_again(queue: Queue, aws: Aws) -> None:
    aws.fail("DeleteMessageBatch", status=500, code="InternalError", entries=[0, 2], times=2)
    queue.send(*map(good, range(10)))
    with consuming("shop"):
        queue.until_empty()
    assert sorted(taken()) == list(range(10))
    assert aws.calls("DeleteMessageBatch") >= 3


def test_what_keeps_its_time_comes_again_when_that_is_over(
    queue: Queue, aws: Aws, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.INGEST_TRIES = 2
    monkeypatch.setattr(sqs, "VISIBILITY_SECONDS", 2)
    aws.fail("ChangeMessageVisibilityBatch", entries=[0])
    queue.send(BAD, good(1))
    with consuming("shop"):
        queue.until_empty()
    assert (taken(), len(dead())) == ([1], 1)


def test_a_queue_that_throttles_is_read_again(queue: Queue, aws: Aws) -> None:
    aws.fail("ReceiveMessage", times=6)
    queue.send(good(1))
    with consuming("shop"):
        queue.until_empty()
    assert taken() == [1]


def test_while_the_database_does_not_answer_records_wait_and_no_try_is_counted(
    queue: Queue, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqs, "VISIBILITY_SECONDS", 1)  # It is extended meanwhile.
    times = 3

    def broken(source: Source, records: Sequence[Record]) -> list[Any]:
        nonlocal times
        times -= 1
        if times >= 0:
            raise OperationalError("server closed the connection unexpectedly")
        return ingesting.ingest(source, records)

    monkeypatch.setattr("adapters.sources.consuming.ingest", broken)
    queue.send(good(1))
    with consuming("shop"):
        queue.until_empty()
    assert taken() == [1]
    assert times == -1, "Nobody else got it meanwhile."
    assert not FailedRecord.objects.exists()


def test_a_stop_finishes_what_is_in_flight_and_gives_back_the_rest(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(source: Source, records: Sequence[Record]) -> list[Any]:
        raise OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr("adapters.sources.consuming.ingest", broken)
        queue.send(good(1), good(2))
        with consuming("shop"):
            until(lambda: _in_flight(queue) == 2)
    assert _in_flight(queue) == 0, "They are there for others at once."
    with consuming("shop"):
        queue.until_empty()
    assert sorted(taken()) == [1, 2]


def test_a_stop_among_many_messages_leaves_none_behind(queue: Queue) -> None:
    queue.send(*map(good, range(100)))
    with consuming("shop"):
        until(lambda: Message.objects.count() > 10)
    assert _in_flight(queue) == 0
    assert Message.objects.count() + queue.left() == 100


def _in_flight(queue: Queue) -> int:
    name = "ApproximateNumberOfMessagesNotVisible"
    return int(queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=[name])["Attributes"][name])


# --- FIFO -----------------------------------------------------------------------------------------


def test_in_a_fifo_queue_what_fails_is_not_overtaken_by_its_group(fifo: Queue, settings: LazySettings) -> None:
    settings.INGEST_TRIES = 3
    fifo.send(good("a1"), BAD, good("a3"), MessageGroupId="a")
    fifo.send(good("b1"), good("b2"), MessageGroupId="b")
    with consuming("shop"):
        until(lambda: {"a1", "b1", "b2"} == set(taken()))
        assert not dead()
        fifo.until_empty()
    found = taken()
    assert [one for one in found if one[0] == "a"] == ["a1", "a3"]
    assert [one for one in found if one[0] == "b"] == ["b1", "b2"]
    assert len(dead()) == 1


def test_what_sqs_takes_for_a_new_message_is_one(
    aws: Aws, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deduplication id counts for five minutes; then senders may use it again."""
    queue = Queue(aws, fifo=True, ContentBasedDeduplication="true")
    settings.INGEST_SOURCES = {"shop": {"kind": "notification", "queue": queue.url}}

    def send(text: str, **more: str) -> None:
        queue.client.send_message(QueueUrl=queue.url, MessageGroupId="a", MessageBody=good(text), **more)

    send("same")
    send("same")  # One for SQS.
    send("first", MessageDeduplicationId="1")
    monkeypatch.setattr(sqs_models, "DEDUPLICATION_TIME_IN_SECONDS", 0)
    monkeypatch.setattr(aws_sqs, "DEDUPLICATED_SECONDS", 0)
    send("same")
    send("second", MessageDeduplicationId="1")
    with consuming("shop"):
        queue.until_empty()
    assert taken() == ["same", "first", "same", "second"]
    assert not dead()


# --- Ids and envelopes ----------------------------------------------------------------------------


def test_an_own_id_says_what_is_a_repetition(queue: Queue) -> None:
    queue.send(good(1), good(1), MessageAttributes={"id": {"DataType": "String", "StringValue": "order-1"}})
    queue.send(good(1))
    with consuming("shop"):
        queue.until_empty()
    assert taken() == [1, 1]


def test_sns_envelopes_are_taken_off_and_raw_delivery_has_none(queue: Queue, aws: Aws) -> None:
    sns = aws.client("sns")
    arn = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topics = [sns.create_topic(Name=name)["TopicArn"] for name in ("enveloped", "raw")]
    sns.subscribe(TopicArn=topics[0], Protocol="sqs", Endpoint=arn)
    sns.subscribe(TopicArn=topics[1], Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    attributes = {"id": {"DataType": "String", "StringValue": "once"}}
    for _ in range(2):
        sns.publish(TopicArn=topics[0], Message=good("enveloped"), MessageAttributes=attributes)
    sns.publish(TopicArn=topics[1], Message=good("raw"))
    with consuming("shop"):
        queue.until_empty()
    assert sorted(taken()) == ["enveloped", "raw"]


@pytest.mark.parametrize("kind", ["notification", "eventbridge"])
def test_events_of_eventbridge_are_records_or_around_them(
    kind: str, queue: Queue, aws: Aws, settings: LazySettings
) -> None:
    settings.INGEST_SOURCES = {"shop": {"kind": kind, "queue": queue.url}}
    events = aws.client("events")
    arn = queue.client.get_queue_attributes(QueueUrl=queue.url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="all", EventPattern=json.dumps({"source": ["shop"]}))
    events.put_targets(Rule="all", Targets=[{"Id": "queue", "Arn": arn}])
    events.put_events(Entries=[{"Source": "shop", "DetailType": "notify", "Detail": good("event")}])
    with consuming("shop"):
        queue.until_empty()
    assert taken() == ["event"]
