"""The queue of SQS that TASKS_QUEUE names, for workers outside."""

import hashlib

from django.conf import settings

from adapters.aws import clients


class TaskQueue:
    """Of a FIFO queue, each task is a group of its own: tasks do not wait for each other."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = clients.client("sqs", timeout=settings.DELIVERY_TIMEOUT)

    def send(self, body: bytes) -> None:
        """Raises what boto3 raises, when the task may not be in the queue."""
        digest = hashlib.sha256(body).hexdigest()
        fifo = {"MessageGroupId": digest, "MessageDeduplicationId": digest} if self._url.endswith(".fifo") else {}
        self._client.send_message(QueueUrl=self._url, MessageBody=body.decode(), **fifo)
