"""Queues, topics, buses and streams of AWS: the contract, with the real SDK."""

from typing import TYPE_CHECKING

import pytest

from adapters.aws.eventbridge import EventBus
from adapters.aws.kinesis import Stream
from adapters.aws.sns import Topic
from adapters.aws.sqs import Queue
from tests.adapters.aws_sides import BusSide, FifoSide, FifoTopicSide, QueueSide, StreamSide, TopicSide
from tests.adapters.contract import AdapterContract, Side

if TYPE_CHECKING:
    from tests.emulators.aws import Aws

pytestmark = pytest.mark.any_database


class TestQueue(AdapterContract):
    adapter_class = Queue
    nonsense = [
        "",
        "shop",
        "arn:aws:sqs:us-east-1:123456789012:shop",
        "https://sqs.us-east-1.amazonaws.com/",
        "ftp://x/y",
    ]

    @pytest.fixture
    def side(self, aws: "Aws") -> Side:
        return QueueSide(aws)


class TestFifoQueue(TestQueue):
    @pytest.fixture
    def side(self, aws: "Aws") -> Side:
        return FifoSide(aws)


class TestTopic(AdapterContract):
    adapter_class = Topic
    nonsense = ["", "shop", "arn:aws:sqs:us-east-1:123456789012:shop", "arn:aws:sns:us-east-1:1:shop", "https://x/y"]

    @pytest.fixture
    def side(self, aws: "Aws") -> Side:
        return TopicSide(aws)


class TestFifoTopic(TestTopic):
    @pytest.fixture
    def side(self, aws: "Aws") -> Side:
        return FifoTopicSide(aws)


class TestEventBus(AdapterContract):
    adapter_class = EventBus
    nonsense = ["", "a bus", "https://x/y", "arn:aws:sns:us-east-1:123456789012:shop"]

    @pytest.fixture
    def side(self, aws: "Aws", monkeypatch: pytest.MonkeyPatch) -> Side:
        from moto.events.models import EventsBackend

        side = BusSide(aws)
        monkeypatch.setattr(EventsBackend, "put_events", side.record(EventsBackend.put_events))
        return side


class TestStream(AdapterContract):
    adapter_class = Stream
    nonsense = ["", "a stream", "https://x/y", "arn:aws:sns:us-east-1:123456789012:shop"]

    @pytest.fixture
    def side(self, aws: "Aws") -> Side:
        return StreamSide(aws)
