"""What moto's SQS lacks: FIFO messages are numbered, also deleted ones have duplicates, dead letters move back."""

import itertools
import time
import uuid
from typing import Any

from moto.core.responses import ActionResult
from moto.sqs import models
from moto.sqs.exceptions import InvalidParameterValue
from moto.sqs.responses import SQSResponse

DEDUPLICATED_SECONDS = 300

_numbers = itertools.count(18850000000000000000)
_add_message = models.Queue.add_message


def add_message(queue: Any, message: Any) -> None:
    if queue.fifo_queue:
        message.sequence_number = str(next(_numbers))
        seen = queue.__dict__.setdefault("seen", {})
        if time.monotonic() - seen.get(message.deduplication_id, -DEDUPLICATED_SECONDS) < DEDUPLICATED_SECONDS:
            return
        seen[message.deduplication_id] = time.monotonic()
    _add_message(queue, message)


def start_message_move_task(response: Any) -> ActionResult:
    """Moves at once. Messages go as new ones, or their count of receipts would send them straight back."""
    backend = response.sqs_backend
    source = response._get_param("SourceArn")
    wanted = response._get_param("DestinationArn")
    dead = backend.get_queue(source.split(":")[-1])
    sources = backend.list_dead_letter_source_queues(dead.name)
    if not sources:
        raise InvalidParameterValue("Source queue must be configured as a Dead Letter Queue.")
    queue = backend.get_queue(wanted.split(":")[-1]) if wanted else sources[0]
    with dead._messages_lock:
        moved, dead._messages = dead._messages, []
    for message in moved:
        backend.send_message(
            queue.name,
            message.body,
            message_attributes=message.message_attributes,
            deduplication_id=message.deduplication_id and uuid.uuid4().hex,
            group_id=message.group_id,
        )
    task = {
        "TaskHandle": uuid.uuid4().hex,
        "Status": "COMPLETED",
        "SourceArn": source,
        "DestinationArn": wanted or "",
        "ApproximateNumberOfMessagesMoved": len(moved),
        "ApproximateNumberOfMessagesToMove": len(moved),
        "StartedTimestamp": int(time.time() * 1000),
    }
    backend.__dict__.setdefault("move_tasks", []).insert(0, task)
    return ActionResult({"TaskHandle": task["TaskHandle"]})


def list_message_move_tasks(response: Any) -> ActionResult:
    tasks = response.sqs_backend.__dict__.get("move_tasks", [])
    source = response._get_param("SourceArn")
    return ActionResult({"Results": [task for task in tasks if task["SourceArn"] == source]})


def patch(_aws: Any) -> None:
    for owner, function in (
        (models.Queue, add_message),
        (SQSResponse, start_message_move_task),
        (SQSResponse, list_message_move_tasks),
    ):
        setattr(owner, function.__name__, function)
