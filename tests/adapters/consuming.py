"""Consumers in a thread of the test's process, and queues as the test sees them."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from adapters.ingest_settings import sources
from adapters.models import FailedRecord
from adapters.sources.consuming import consume
from notifications.models import Message
from tests.emulators.aws import Aws
from tests.servers import eventually

SECONDS = 15.0
STOP_SECONDS = 20.0
BAD = json.dumps({"to": {"user": "alice"}})


def good(number: int | str) -> str:
    return json.dumps({"to": {"user": "alice"}, "data": number})


def taken() -> list[Any]:
    """The data of all messages, in order."""
    return [json.loads(data) for data in Message.objects.order_by("topic", "offset").values_list("data", flat=True)]


def dead() -> list[str]:
    return list(FailedRecord.objects.filter(dead_at__isnull=False).values_list("record_id", flat=True))


@contextmanager
def consuming(*names: str) -> Iterator[None]:
    """The sources are consumed meanwhile; at the end they come to a clean stop."""
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    chosen, ready = [sources()[name] for name in names], threading.Event()

    async def run() -> None:
        stopping = asyncio.Event()
        started.append((asyncio.get_running_loop(), stopping))
        ready.set()
        await consume(chosen, stopping)

    thread = threading.Thread(target=asyncio.run, args=[run()], daemon=True)
    thread.start()
    assert ready.wait(SECONDS)
    try:
        yield
    finally:
        loop, stopping = started[0]
        loop.call_soon_threadsafe(stopping.set)
        thread.join(STOP_SECONDS)
        assert not thread.is_alive(), "It does not stop."


def until(condition: Callable[[], Any]) -> None:
    eventually(condition, SECONDS)


class Queue:
    """A queue of SQS as the test sees it."""

    def __init__(self, aws: Aws, *, fifo: bool = False, **attributes: str) -> None:
        self.client = aws.client("sqs")
        name = f"q-{uuid4().hex[:8]}" + (".fifo" if fifo else "")
        attributes |= {"FifoQueue": "true"} if fifo else {}
        self.url: str = self.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    def send(self, *bodies: str, **more: Any) -> None:
        for start in range(0, len(bodies), 10):
            entries = [{"Id": str(n), "MessageBody": body, **more} for n, body in enumerate(bodies[start : start + 10])]
            for entry in entries if "MessageGroupId" in more else ():
                entry["MessageDeduplicationId"] = uuid4().hex
            reply = self.client.send_message_batch(QueueUrl=self.url, Entries=entries)
            assert not reply.get("Failed"), reply

    def left(self) -> int:
        """How many are in it, also of those that somebody works on."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def until_empty(self) -> None:
        until(lambda: not self.left())
