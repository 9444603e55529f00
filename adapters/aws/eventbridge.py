"""Buses of EventBridge. The detail is the body, with the id as its first member; the detail type is the kind."""

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec

from adapters.aws.batches import Answer, Batches
from adapters.base import Misconfigured, Parcel, Target, with_id

ARN = r"arn:aws[\w-]*:events:[a-z0-9-]+:\d{12}:event-bus/"
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """What rules may match: `source`, and `detail_type` instead of the kind of each event."""

    source: Text = "fanfare"
    detail_type: Annotated[str, msgspec.Meta(max_length=128)] = ""

    def __post_init__(self) -> None:
        if self.source.startswith("aws."):
            raise ValueError("`source` must not begin with aws., which is AWS's own")


class EventBus(Batches):
    """Order: none. A bus that nobody has made takes events all the same, and drops them: `check` finds that."""

    service = "events"
    action = "events:PutEvents"
    call_bytes = 256 * 1024
    max_bytes = 250 * 1024  # The limit is for the whole event, with all that is said around the detail.
    Options = Options

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._said = msgspec.convert(target.options, Options)

    @classmethod
    def validate(cls, address: str) -> None:
        if not re.fullmatch(rf"({ARN})?[\w./-]{{1,256}}", address):
            raise Misconfigured("the name or the ARN of a bus, such as default")

    def _send(self, parcels: Sequence[Parcel]) -> Answer:
        entries = [
            {
                "EventBusName": self.target.address,
                "Source": self._said.source,
                "DetailType": self._said.detail_type or parcel.event,
                "Detail": with_id(parcel).decode(),
            }
            for parcel in parcels
        ]
        answer = self._client.put_events(Entries=entries)
        return {
            place: self._refused(one["ErrorCode"], one.get("ErrorMessage", ""))
            for place, one in enumerate(answer["Entries"])
            if one.get("ErrorCode")
        }

    def _look(self) -> str:
        return f"the bus {self._client.describe_event_bus(Name=self.target.address)['Arn']}"
