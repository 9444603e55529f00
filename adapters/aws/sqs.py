"""Queues of SQS, standard and FIFO."""

import re
from collections.abc import Sequence

from adapters.aws.batches import Answer
from adapters.aws.messages import Messages
from adapters.base import Misconfigured, Parcel


class Queue(Messages):
    """The body is the message."""

    service = "sqs"
    action = "sqs:SendMessage"
    body_name = "MessageBody"
    call_bytes = 1024 * 1024

    @classmethod
    def validate(cls, address: str) -> None:
        if not re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w.-]+)*/[\w-]{1,80}(\.fifo)?", address):
            raise Misconfigured("the URL of a queue, such as https://sqs.us-east-1.amazonaws.com/123456789012/name")

    def _send(self, parcels: Sequence[Parcel]) -> Answer:
        return self._answer(
            self._client.send_message_batch(QueueUrl=self.target.address, Entries=self._entries(parcels))
        )

    def _look(self) -> str:
        answer = self._client.get_queue_attributes(
            QueueUrl=self.target.address, AttributeNames=["ApproximateNumberOfMessages"]
        )
        return f"a queue with about {answer['Attributes']['ApproximateNumberOfMessages']} messages"
