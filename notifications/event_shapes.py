"""Events as Amazon EventBridge writes them, and what our detail types have in their detail."""

from datetime import datetime
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, field

from adapters.caches import TTL_MAX

CacheName = Annotated[str, Meta(min_length=1, max_length=100)]


class Event(Struct, omit_defaults=True):
    """An event of EventBridge. What else it has makes no difference."""

    detail_type: Annotated[str, Meta(description="cacheSet, cacheDelete, topicPublish or notify.")] = field(
        name="detail-type"
    )
    detail: Annotated[Any, Meta(description="An object, as the detail-type has it.")]
    id: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET
    time: (
        Annotated[datetime, Meta(tz=True, description="When it happened; a number is in epoch seconds.")]
        | float
        | UnsetType
    ) = UNSET

    @property
    def happened_at(self) -> float | None:
        """In epoch seconds, where it is said."""
        if isinstance(self.time, datetime):
            return self.time.timestamp()
        return None if self.time is UNSET else self.time


class CacheDelete(Struct, forbid_unknown_fields=True):
    cacheName: CacheName
    key: str | UnsetType = UNSET
    key_base64: str | UnsetType = UNSET


class CacheSet(CacheDelete, forbid_unknown_fields=True, kw_only=True):
    message: Any
    ttl: Annotated[int, Meta(ge=1, le=TTL_MAX)]


class TopicPublish(Struct, forbid_unknown_fields=True):
    cacheName: CacheName
    topicName: Annotated[str, Meta(min_length=1, max_length=200)]
    message: Any


class Entries(Struct, forbid_unknown_fields=True):
    """Events as `PutEvents` sends them: `{Source, DetailType, Detail, Time?}`, and each is judged for itself."""

    Entries: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=10)]


class EventAccepted(Struct):
    """The event has taken effect: what it says is stored."""

    EventId: str


class EntryResult(Struct, omit_defaults=True):
    """`EventId`, or why not."""

    EventId: str | UnsetType = UNSET
    ErrorCode: str | UnsetType = UNSET
    ErrorMessage: str | UnsetType = UNSET


class EntriesResult(Struct):
    """What became of the entries, in their order."""

    FailedEntryCount: int
    Entries: list[EntryResult]


class ItemValue(Struct, omit_defaults=True):
    """A text, or bytes in base64."""

    text: str | UnsetType = UNSET
    binary: str | UnsetType = UNSET


class Item(Struct):
    topic_sequence_number: int
    sequence_page: int
    value: ItemValue


class Discontinuity(Struct):
    """What is between the two numbers cannot be read (any more), or the numbers begin anew on another page."""

    last_topic_sequence: int
    new_topic_sequence: int
    new_sequence_page: int


class Element(Struct, omit_defaults=True):
    """One of both."""

    item: Item | UnsetType = UNSET
    discontinuity: Discontinuity | UnsetType = UNSET


class Items(Struct):
    items: list[Element]
