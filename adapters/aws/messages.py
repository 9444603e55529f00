"""What queues and topics get: a body, and attributes beside it."""

import re
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, ClassVar, Literal

import msgspec

from adapters.aws.batches import Answer, Batches
from adapters.base import Parcel, Target

GROUP = re.compile(r"[!-~]{1,128}")  # What AWS takes as the name of a message group.


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """`shape`: the event as it is, or what SUMU's backends know: the client's message alone, its sender beside it."""

    shape: Literal["event", "sumu"] = "event"


class Messages(Batches):
    """What queues and topics share. The attributes `id` and `event` are beside each body.

    Order, of a FIFO one: by key, which is the message group. What comes twice within 5 minutes is there once.
    """

    Options = Options
    body_name: ClassVar[str]

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.ordered = target.address.endswith(".fifo")
        self._shape = msgspec.convert(target.options, Options).shape

    def _entries(self, parcels: Sequence[Parcel]) -> list[dict[str, Any]]:
        return [
            {"Id": str(place), **self._message(parcel), **(_fifo(parcel) if self.ordered else {})}
            for place, parcel in enumerate(parcels)
        ]

    def _message(self, parcel: Parcel) -> dict[str, Any]:
        body, attributes = parcel.body, {"id": _text(str(parcel.id)), "event": _text(parcel.event)}
        if self._shape == "sumu":
            body, said = _as_sumu(parcel)
            attributes |= said
        return {self.body_name: body.decode(), "MessageAttributes": attributes}

    def _answer(self, answer: dict[str, Any]) -> Answer:
        failed = answer.get("Failed", [])
        return {int(one["Id"]): self._refused(one["Code"], one.get("Message", "")) for one in failed}


class _Attributes(msgspec.Struct):
    user_id: str
    timestamp: int
    source: str


class _Data(msgspec.Struct):
    message: msgspec.Raw
    attributes: _Attributes
    type: str = ""


class _Body(msgspec.Struct):
    data: _Data


def _as_sumu(parcel: Parcel) -> tuple[bytes, dict[str, Any]]:
    """What clients have said, and presence; any other event as it is."""
    try:
        data = msgspec.json.decode(parcel.body, type=_Body).data
    except msgspec.ValidationError:
        return parcel.body, {}
    body = bytes(data.message)
    if data.type:
        body = msgspec.json.encode({"type": data.type, "message": data.message})
    said = data.attributes
    timestamp = {"DataType": "Number", "StringValue": str(said.timestamp)}
    return body, {"user_id": _text(said.user_id), "timestamp": timestamp, "source": _text(said.source)}


def _text(value: str) -> dict[str, str]:
    return {"DataType": "String", "StringValue": value}


def _fifo(parcel: Parcel) -> dict[str, str]:
    group = parcel.key if GROUP.fullmatch(parcel.key) else sha256(parcel.key.encode()).hexdigest()
    return {"MessageGroupId": group, "MessageDeduplicationId": str(parcel.id)}
