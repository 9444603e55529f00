"""Messages on their way out: what destinations are told of each that enters the log."""

from collections.abc import Sequence

import msgspec
from django.utils import timezone
from uuid_utils.compat import uuid7

from adapters import outbox
from notifications.models import Message, Task


def owe_messages(messages: Sequence[Message]) -> None:
    """One of MESSAGE_SINKS: what is owed is stored with the messages, or neither is."""
    outbox.owe(_event(message) for message in messages)


def owe_task(task: Task) -> None:
    """A task has ended, in the caller's transaction: `task.finished`, however it ended."""
    data = {
        "task": str(task.id),
        "user": task.user,
        "type": task.type,
        "state": task.state,
        "error": task.error,
        "result": msgspec.Raw(task.result.encode()),
    }
    outbox.owe([outbox.Event("task.finished", uuid7(), f"user.{task.user}", msgspec.json.encode(data), timezone.now())])


def _event(message: Message) -> outbox.Event:
    topic = message.topic
    data = {
        "id": str(message.id),
        "topic": topic.name,
        "epoch": topic.epoch,
        "offset": message.offset,
        "type": message.type,
        "data": msgspec.Raw(message.data.encode()),
        "created_at": message.created_at,
    }
    if message.expires_at:
        data["expires_at"] = message.expires_at
    if message.sender:
        data["sender"] = message.sender
    return outbox.Event(
        "message",
        message.id,
        topic.name,
        msgspec.json.encode(data),
        message.created_at,
        message.type,
        message.expires_at,
    )
