"""The bodies of the API for fetching events from tables."""

from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

Receipt = Annotated[str, Meta(min_length=1, max_length=40)]


class ReceiveRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What to receive; nothing need be given."""

    max: Annotated[int, Meta(ge=1, le=10, description="Messages at most.")] = 10
    wait: Annotated[float, Meta(ge=0, le=20, description="Seconds to wait for one while there is none.")] = 0.0
    visibility: Annotated[
        int, Meta(ge=5, le=43_200, description="Seconds in which nobody else gets them; then they come again.")
    ] = 30
    destination: (
        Annotated[str, Meta(min_length=1, max_length=100, description="Its name; without, all that are enabled.")]
        | UnsetType
    ) = UNSET


class ClientMessage(Struct):
    """A message that is lent, for the `received`-th time."""

    messageId: UUID
    receipt: str
    received: int
    body: Annotated[Raw, Meta(description="An object with `type`, `timestamp` and `data`.")]


class ClientMessages(Struct):
    messages: list[ClientMessage]


class AcknowledgeMessages(Struct, forbid_unknown_fields=True):
    """What is done, by the receipts that came with it."""

    receipts: Annotated[list[Receipt], Meta(min_length=1, max_length=100)]


class AcknowledgedMessages(Struct):
    """How many are gone now; of a receipt that is old or was used before, nothing is."""

    acknowledged: int
