"""Records from a queue of SQS, standard or FIFO.

At least once: a message is deleted when it is taken, or dead. Of a batch only what failed comes back, after a while
that grows with each time. Any number of consumers share a queue.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from django.conf import settings

from adapters import metrics
from adapters.aws import clients
from adapters.ingest import Record
from adapters.ingest_settings import Source
from adapters.sources.base import Backoff, Take, abandonable, backoff, finish
from adapters.sources.envelopes import opened

logger = logging.getLogger(__name__)

BATCH = 10
WAIT_SECONDS = 20
VISIBILITY_SECONDS = 30  # Renewed while it is worked on; after a kill -9 a message comes again when it is over.
ARRIVE_SECONDS = 1.0  # What is on its way when it is to stop has so long to arrive, and to go back.
COMES_BACK_SECONDS = 1.0, 300.0  # After the first failure, and at most.
DELETE_TRIES = 4

Message = Mapping[str, Any]  # As boto3 has it.


class Queue:
    def __init__(self, source: Source) -> None:
        self.name = source.name
        self._source = source
        self._url = source.queue
        self._client = clients.client("sqs", timeout=WAIT_SECONDS + settings.DELIVERY_TIMEOUT)

    async def run(self, take: Take) -> None:
        while True:
            messages = await self._next()
            metrics.source_lag.labels(self.name).set(max(map(_age, messages), default=0.0))
            if messages:
                await finish(self._handle(messages, take))

    async def _next(self) -> list[Message]:
        """The next batch; what is on its way when all is to stop goes back."""
        receiving = asyncio.create_task(abandonable(self._receive))
        try:
            return await asyncio.shield(receiving)
        except asyncio.CancelledError:
            with suppress(Exception):  # A call that waits for messages is not waited for.
                async with asyncio.timeout(ARRIVE_SECONDS):
                    await self._give_back([], await receiving)
            raise

    def _receive(self) -> list[Message]:
        reply = self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=WAIT_SECONDS,
            VisibilityTimeout=VISIBILITY_SECONDS,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["id"],
        )
        return list(reply.get("Messages", []))

    async def _handle(self, messages: Sequence[Message], take: Take) -> None:
        done: list[Message] = []
        failed: list[Message] = []
        extending = asyncio.create_task(self._extend(messages))
        try:
            for turn in _turns(messages):
                blocked = {_group(message) for message in failed} - {None}
                failed += [message for message in turn if _group(message) in blocked]
                due = [message for message in turn if _group(message) not in blocked]
                results = await take([self._record(message) for message in due]) if due else []
                for message, result in zip(due, results, strict=True):
                    (done if result.done else failed).append(message)
        finally:
            extending.cancel()
            left = [message for message in messages if message not in done and message not in failed]
            await self._delete(done)
            await self._give_back(failed, left)

    def _record(self, message: Message) -> Record:
        body = message["Body"].encode()
        own = message.get("MessageAttributes", {}).get("id", {}).get("StringValue", "")
        record = opened(self._source, Record(message["MessageId"], body))
        return Record(own, record.body) if own else record

    async def _extend(self, messages: Sequence[Message]) -> None:
        """Nobody else gets them while they are worked on."""
        while True:
            await asyncio.sleep(VISIBILITY_SECONDS / 3)
            await self._set_visibility([(message, VISIBILITY_SECONDS) for message in messages])

    async def _give_back(self, failed: Sequence[Message], left: Sequence[Message]) -> None:
        """What failed comes after a while, what was not tried at once.

        A group waits as a whole for the first of it that failed, so that nothing overtakes that one.
        """
        waits: dict[str | None, int] = {}
        seconds = []
        for message in failed:
            failures = int(message["Attributes"].get("ApproximateReceiveCount", 1)) - 1
            wait = round(backoff(failures, *COMES_BACK_SECONDS)) or 1
            seconds.append(wait if (group := _group(message)) is None else waits.setdefault(group, wait))
        seconds += [waits.get(_group(message), 0) for message in left]
        await self._set_visibility(list(zip([*failed, *left], seconds, strict=True)))

    async def _set_visibility(self, wanted: Sequence[tuple[Message, int]]) -> None:
        if not wanted:
            return
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"], "VisibilityTimeout": seconds}
            for number, (message, seconds) in enumerate(wanted)
        ]
        try:
            reply = await abandonable(self._client.change_message_visibility_batch, QueueUrl=self._url, Entries=entries)
        except Exception as error:  # Then they come again when their time is over.
            logger.warning("Messages of %s keep their time: %r", self.name, error)
            return
        for entry in reply.get("Failed", []):
            logger.warning("A message of %s keeps its time: %s", self.name, entry.get("Message") or entry["Code"])

    async def _delete(self, messages: Sequence[Message]) -> None:
        """What cannot be deleted comes again, and is known then."""
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]} for number, message in enumerate(messages)
        ]
        wait = Backoff(0.1, 2.0)
        for _ in range(DELETE_TRIES):
            if not entries:
                return
            try:
                reply = await abandonable(self._client.delete_message_batch, QueueUrl=self._url, Entries=entries)
                failed = {entry["Id"] for entry in reply.get("Failed", [])}
                entries = [entry for entry in entries if entry["Id"] in failed]
            except Exception as error:
                logger.warning("Messages of %s cannot be deleted: %r", self.name, error)
            if entries:
                await asyncio.sleep(wait.next())
        if entries:
            logger.warning("%d messages of %s could not be deleted: they come again.", len(entries), self.name)


def _turns(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Of a FIFO queue one message of each group at a time: later ones must not overtake one that fails."""
    if all(_group(message) is None for message in messages):
        yield list(messages)
        return
    waiting = list(messages)
    while waiting:
        firsts = {_group(message): message for message in reversed(waiting)}
        yield (turn := list(firsts.values()))
        waiting = [message for message in waiting if message not in turn]


def _group(message: Message) -> str | None:
    found: str | None = message["Attributes"].get("MessageGroupId")
    return found


def _age(message: Message) -> float:
    return max(0.0, time.time() - int(message["Attributes"].get("SentTimestamp", 0)) / 1000)
