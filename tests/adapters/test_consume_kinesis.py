"""Records from streams of Kinesis: from where they were left, each shard in order, blocked by no record."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.utils import timezone

from adapters.aws import clients
from adapters.ingest import RECORD_MAX_BYTES
from adapters.models import Checkpoint
from adapters.sources import checkpoints, kinesis
from notifications.models import Message
from tests.adapters.consuming import BAD, consuming, dead, good, taken, until
from tests.adapters.streams import Stream, patch
from tests.emulators.aws import Aws

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    clients.forget()
    monkeypatch.setattr(kinesis, "SHARE_SECONDS", 0.1)
    monkeypatch.setattr(kinesis, "PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(kinesis, "IDLE_SECONDS", 0.02)
    patch(monkeypatch)


@pytest.fixture
def make_stream(aws: Aws, settings: LazySettings) -> Callable[..., Stream]:
    def make(shards: int = 1, **more: Any) -> Stream:
        stream = Stream(aws, shards)
        settings.INGEST_SOURCES = {"clicks": {"kind": "notification", "stream": stream.name} | more}
        return stream

    return make


@pytest.fixture
def stream(make_stream: Callable[..., Stream]) -> Stream:
    return make_stream()


def count(number: int) -> Callable[[], bool]:
    return lambda: Message.objects.count() == number


def test_all_shards_are_read_from_the_oldest_record_and_later_from_where_they_were_left(
    make_stream: Callable[..., Stream], aws: Aws
) -> None:
    stream = make_stream(shards=3)
    for key in "abcdef":
        stream.put(good(key), key=key)
    with consuming("clicks"):
        until(count(6))
    assert Checkpoint.objects.count() == 3
    assert not Checkpoint.objects.exclude(claim="").exists(), "Others can go on at once."
    positions = dict(Checkpoint.objects.values_list("part", "position"))
    stream.put(good("more"))
    with consuming("clicks"):
        until(count(7))
    assert sorted(taken()) == ["a", "b", "c", "d", "e", "f", "more"]
    moved = dict(Checkpoint.objects.values_list("part", "position"))
    assert sum(moved[part] != position for part, position in positions.items()) == 1


def test_a_bad_and_a_large_record_block_nothing(stream: Stream) -> None:
    stream.put(good(1), BAD, "x" * (RECORD_MAX_BYTES + 1), good(2))
    with consuming("clicks"):
        until(lambda: len(dead()) == 2)
        stream.put(good(3))
        until(count(3))
    assert taken() == [1, 2, 3]


def test_by_its_arn_and_from_the_newest(make_stream: Callable[..., Stream], settings: LazySettings, aws: Aws) -> None:
    stream = make_stream()
    stream.put(good("old"))
    arn = stream.client.describe_stream_summary(StreamName=stream.name)["StreamDescriptionSummary"]["StreamARN"]
    settings.INGEST_SOURCES = {"clicks": {"kind": "notification", "stream": arn, "start": "newest"}}
    with consuming("clicks"):
        until(lambda: Checkpoint.objects.filter(part__startswith=stream.name).exclude(claim="").exists())
        stream.put(good("new"))
        until(count(1))
    assert taken() == ["new"]


def test_children_come_after_their_parents(stream: Stream) -> None:
    stream.put(*(good(f"parent-{number}") for number in range(3)))
    stream.split()
    stream.put(good("child"), key="a")
    stream.put(good("child"), key="b")
    with consuming("clicks"):
        until(count(5))
        until(lambda: Checkpoint.objects.filter(ended=True).count() == 1)
        stream.put(good("later"))
        until(count(6))
    assert taken()[:3] == ["parent-0", "parent-1", "parent-2"]
    assert sorted(taken()[3:]) == ["child", "child", "later"]


@pytest.mark.parametrize(
    "code", ["ExpiredIteratorException", "ProvisionedThroughputExceededException", "InternalFailure"]
)
def test_expired_iterators_and_throttling_pass(code: str, stream: Stream, aws: Aws) -> None:
    with consuming("clicks"):
        stream.put(good(1))
        until(count(1))
        aws.fail("GetRecords", code=code, times=2)
        stream.put(good(2))
        until(count(2))
    assert taken() == [1, 2]


def test_consumers_share_the_shards_and_take_over_from_each_other(make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(shards=4)

    def shares() -> list[int]:
        held = list(Checkpoint.objects.exclude(claim="").values_list("claim", flat=True))
        return sorted(held.count(claim) for claim in set(held))

    with consuming("clicks"):
        until(lambda: shares() == [4])
        with consuming("clicks"):
            until(lambda: shares() == [2, 2])
            for key in "abcdefgh":
                stream.put(good(key), key=key)
            until(count(8))
        until(lambda: shares() == [4])
    assert sorted(taken()) == list("abcdefgh")


def test_what_a_dead_consumer_held_is_read_when_its_lease_is_over(stream: Stream) -> None:
    part = f"{stream.name}/shardId-000000000000"
    until_then = timezone.now() + timedelta(seconds=1)
    Checkpoint.objects.create(source="clicks", part=part, claim="dead", claimed_until=until_then)
    stream.put(good(1))
    with consuming("clicks"):
        until(count(1))
    assert timezone.now() > until_then


def test_a_stale_holder_does_not_move_a_position() -> None:
    checkpoints.add("clicks", ["s/1"])
    assert checkpoints.share("first", "clicks", ["s/1"]) == {"s/1": ""}
    Checkpoint.objects.update(claimed_until=timezone.now())
    assert checkpoints.share("second", "clicks", ["s/1"]) == {"s/1": ""}
    assert checkpoints.save("second", "clicks", "s/1", "20")
    assert not checkpoints.save("first", "clicks", "s/1", "10")
    assert Checkpoint.objects.get().position == "20"


def test_a_stream_that_is_not_there_is_looked_for_again(
    settings: LazySettings, aws: Aws, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings.INGEST_SOURCES = {"clicks": {"kind": "notification", "stream": "later"}}
    with consuming("clicks"):
        until(lambda: "cannot be read" in caplog.text)
        client = aws.client("kinesis")
        client.create_stream(StreamName="later", ShardCount=1)
        client.put_record(StreamName="later", Data=json.dumps({"to": {"user": "a"}, "data": 1}), PartitionKey="a")
        until(count(1))
