"""What SNS and EventBridge put around a record on its way through a queue or stream."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from adapters.ingest import Record
from adapters.ingest_settings import Source


class _FromSns(Struct):
    """A notification of SNS. All its fields have to be there: a record that is a message itself is none."""

    Type: Literal["Notification"]
    MessageId: str
    TopicArn: Annotated[str, Meta(pattern="^arn:")]
    Message: str
    Timestamp: str
    MessageAttributes: dict[str, Any] = {}


class _FromEventBridge(Struct):
    id: str
    detail_type: str = field(name="detail-type")
    version: str
    time: str | float
    region: str
    source: str
    resources: list[Any]
    detail: msgspec.Raw


def opened(source: Source, record: Record) -> Record:
    """The record without its envelopes, as the source has it; with the id that the innermost one has."""
    if source.envelope in (None, "sns"):
        record = _from_sns(record)
    if source.envelope in (None, "eventbridge"):
        record = _from_eventbridge(record, whole=source.kind == "eventbridge")
    return record


def _from_sns(record: Record) -> Record:
    try:
        letter = msgspec.json.decode(record.body, type=_FromSns)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return record
    return Record(_own_id(letter.MessageAttributes) or letter.MessageId, letter.Message.encode())


def _own_id(attributes: dict[str, Any]) -> str:
    """That of the attribute `id`, by which a sender says which messages are repetitions."""
    attribute = attributes.get("id")
    value = attribute.get("Value") if isinstance(attribute, dict) else None
    return value if isinstance(value, str) else ""


def _from_eventbridge(record: Record, *, whole: bool) -> Record:
    """`whole`: records of this source are events of EventBridge, with all their fields."""
    try:
        event = msgspec.json.decode(record.body, type=_FromEventBridge)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return record
    return Record(event.id, record.body if whole else bytes(event.detail))
