"""Messages on their way out: what destinations are told of each that enters the log."""

from collections.abc import Sequence

import msgspec

from adapters import outbox
from notifications.models import Message


def owe_messages(messages: Sequence[Message]) -> None:
    """One of MESSAGE_SINKS: what is owed is stored with the messages, or neither is."""
    outbox.owe(_event(message) for message in messages)


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
