"""Queues, topics, buses and streams in the emulator, as the other sides of adapters."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import msgspec

from adapters.aws.eventbridge import EventBus
from adapters.aws.kinesis import Stream
from adapters.aws.sns import Topic
from adapters.aws.sqs import Queue
from adapters.base import Adapter, Target
from tests.adapters.contract import Arrived, Side

if TYPE_CHECKING:
    from tests.emulators.aws import Aws

SHARDS = 3


class AwsSide(Side):
    adapter_class: type[Adapter]
    service: str
    operation: str  # What sends.
    looking: str  # What a check calls.

    def __init__(self, aws: "Aws", **options: Any) -> None:
        self.aws = aws
        self.client = aws.client(self.service)
        self.target = Target(uuid4(), "shop", self.make(), options)

    def make(self) -> str:
        """Makes the other side -> its address."""
        raise NotImplementedError

    @asynccontextmanager
    async def broken(self) -> AsyncIterator[None]:
        self.aws.fail(self.operation, status=503, code="ServiceUnavailable")
        yield
        self.aws.heal()

    def missing(self) -> Target:
        """An address where there is nothing."""
        return Target(uuid4(), "gone", self.target.address.replace("shop", "gone"), {})


class QueueSide(AwsSide):
    adapter_class: type[Adapter] = Queue
    service, operation, looking = "sqs", "SendMessageBatch", "GetQueueAttributes"

    def make(self) -> str:
        self.received: list[Arrived] = []
        self.queue = make_queue(self.aws, "shop")
        return self.queue

    async def arrived(self) -> Sequence[Arrived]:
        for message in drain(self.aws, self.queue):
            attributes = message["MessageAttributes"]
            assert set(attributes) == {"id", "event"}
            self.received.append(Arrived(UUID(attributes["id"]["StringValue"]), message["Body"].encode()))
        return self.received


class FifoSide(QueueSide):
    def make(self) -> str:
        self.received = []
        self.queue = make_queue(self.aws, "shop.fifo")
        return self.queue


class TopicSide(QueueSide):
    adapter_class = Topic
    service, operation, looking = "sns", "PublishBatch", "GetTopicAttributes"
    suffix = ""

    def make(self) -> str:
        self.received = []
        self.queue = make_queue(self.aws, f"listener{self.suffix}")
        fifo = {"FifoTopic": "true"} if self.suffix else {}
        topic: str = self.client.create_topic(Name=f"shop{self.suffix}", Attributes=fifo)["TopicArn"]
        self.client.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=arn_of(self.aws, self.queue),
            Attributes={"RawMessageDelivery": "true"},
        )
        return topic


class FifoTopicSide(TopicSide):
    suffix = ".fifo"


class BusSide(AwsSide):
    """What arrives is read from the requests: a bus keeps nothing, and gives targets the detail encoded anew."""

    adapter_class = EventBus
    service, operation, looking = "events", "PutEvents", "DescribeEventBus"

    def make(self) -> str:
        self.entries: list[dict[str, str]] = []
        self.client.create_event_bus(Name="shop")
        return "shop"

    async def arrived(self) -> Sequence[Arrived]:
        return [without_id(entry["Detail"].encode()) for entry in self.entries]

    def record(self, put_events: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps the emulator's method."""

        def recorded(backend: Any, events: list[dict[str, str]]) -> Any:
            self.entries += map(dict, events)
            return put_events(backend, events)

        return recorded


class StreamSide(AwsSide):
    adapter_class = Stream
    service, operation, looking = "kinesis", "PutRecords", "DescribeStreamSummary"

    def make(self) -> str:
        self.client.create_stream(StreamName="shop", ShardCount=SHARDS)
        return "shop"

    async def arrived(self) -> Sequence[Arrived]:
        return [without_id(record["Data"]) for record in self.records()]

    def records(self) -> Iterator[dict[str, Any]]:
        """Shard after shard."""
        for shard in self.client.list_shards(StreamName="shop")["Shards"]:
            iterator = self.client.get_shard_iterator(
                StreamName="shop", ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while records := (answer := self.client.get_records(ShardIterator=iterator))["Records"]:
                yield from records
                iterator = answer["NextShardIterator"]


SIDES = [QueueSide, FifoSide, TopicSide, FifoTopicSide, BusSide, StreamSide]


def make_queue(aws: "Aws", name: str, **attributes: str) -> str:
    fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    url: str = aws.client("sqs").create_queue(QueueName=name, Attributes={**fifo, **attributes})["QueueUrl"]
    return url


def arn_of(aws: "Aws", queue: str) -> str:
    answer = aws.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])
    arn: str = answer["Attributes"]["QueueArn"]
    return arn


def drain(aws: "Aws", queue: str) -> Iterator[dict[str, Any]]:
    """Takes all that is in a queue."""
    sqs = aws.client("sqs")
    while messages := sqs.receive_message(
        QueueUrl=queue, MaxNumberOfMessages=10, MessageAttributeNames=["All"], AttributeNames=["All"]
    ).get("Messages"):
        yield from messages
        entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)]
        sqs.delete_message_batch(QueueUrl=queue, Entries=entries)


def without_id(data: bytes) -> Arrived:
    """Splits off what `with_id` has put in front."""
    start, _, rest = data.partition(b",")
    return Arrived(UUID(msgspec.json.decode(start + b"}")["id"]), b"{" + rest)
