"""The bodies of the notification API: one definition each, for views, schema and tests."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from accounts.shapes import Problem

UserId = Annotated[str, Meta(min_length=1, max_length=200, description="As the application names its user.")]


class Target(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Whom a notification is for: exactly one of these."""

    user: UserId | UnsetType = UNSET
    users: Annotated[list[UserId], Meta(min_length=1, max_length=1000)] | UnsetType = UNSET
    account: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET
    session: Annotated[str, Meta(min_length=1, max_length=256)] | UnsetType = UNSET
    topic: Annotated[str, Meta(min_length=1, max_length=200)] | UnsetType = UNSET
    all: bool | UnsetType = UNSET


class Notification(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A notification to send."""

    to: Target
    data: Annotated[Any, Meta(description="Any JSON, up to 64 KiB: what the receivers get.")]
    type: Annotated[str, Meta(min_length=1, max_length=100)] = "message"
    ttl: Annotated[int, Meta(ge=1, le=31_536_000, description="Seconds until it expires.")] | None = None
    send_at: Annotated[datetime, Meta(tz=True, description="Sent then, within 2 s.")] | None = None
    key: Annotated[str, Meta(max_length=200, description="A label to recall it by; need not be unique.")] = ""
    store: Annotated[bool, Meta(description="False: only for who listens now, not kept.")] = True
    exclude_users: Annotated[list[UserId], Meta(max_length=1000)] = []


class Accepted(Struct):
    """Where a message stands in its topic. `offset` is null when it is scheduled or not stored."""

    id: str
    topic: str
    epoch: str | None
    offset: int | None


class AcceptedForUser(Struct):
    user: str
    id: str
    topic: str
    epoch: str | None
    offset: int | None


class AcceptedForUsers(Struct):
    """The reply for `{users}`: a message for each."""

    messages: list[AcceptedForUser]


class Batch(Struct, forbid_unknown_fields=True):
    # The items are shaped one by one, so that a bad one does not fail its neighbours.
    notifications: Annotated[list[Any], Meta(min_length=1, max_length=1000)]


class BatchBody(Struct):
    """Up to 1000 notifications."""

    notifications: Annotated[list[Notification], Meta(min_length=1, max_length=1000)]


class BatchResult(Struct, omit_defaults=True):
    """What became of one notification: status 202 with its place, or an error."""

    status: int
    id: str | UnsetType = UNSET
    topic: str | UnsetType = UNSET
    epoch: str | UnsetType | None = UNSET
    offset: int | UnsetType | None = UNSET
    messages: list[AcceptedForUser] | UnsetType = UNSET
    error: Problem | UnsetType = UNSET


class BatchResults(Struct):
    results: list[BatchResult]


class Message(Struct, omit_defaults=True):
    id: str
    topic: str
    offset: int | None
    type: str
    data: Any
    created_at: datetime
    expires_at: datetime | None
    sender: str | UnsetType = UNSET


class Step(Struct, omit_defaults=True):
    """Something that happened to a message. `acknowledged`: a client says that it has shown it."""

    what: Literal[
        "accepted",
        "scheduled",
        "published",
        "dispatched",
        "withheld",
        "quiet",
        "acknowledged",
        "seen",
        "read",
        "archived",
        "recalled",
        "expired",
    ]
    at: datetime
    user: str | UnsetType = UNSET
    connection: Annotated[str | UnsetType, Meta(description="Which has shown it; empty: it was said over HTTP.")] = (
        UNSET
    )
    reason: str | UnsetType = UNSET
    sent: Annotated[int | UnsetType, Meta(description="Queues of sessions that have it.")] = UNSET
    gone: Annotated[int | UnsetType, Meta(description="Sessions that had ended.")] = UNSET
    failed: Annotated[int | UnsetType, Meta(description="Queues that did not take it.")] = UNSET
    left: Annotated[int | UnsetType, Meta(description="Queues that have still to get it.")] = UNSET


class MessageWithTimeline(Message, kw_only=True):
    """A message and its steps, oldest first: of what users did the newest 100 of each kind, `totals` says of how many.
    To users their own steps only."""

    key: str
    timeline: list[Step]
    totals: dict[str, int]


class Messages(Struct):
    messages: list[Message]
    next: str | None


class TopicMessages(Struct):
    messages: list[Message]
    epoch: str | None
    head: int
    tail: int


class Recalled(Struct):
    """The ids that were recalled now; `more`: there are others with this key, call again."""

    recalled: list[str]
    more: bool


class InboxMessage(Message, kw_only=True):
    """A message with what its user has done with it."""

    seen_at: datetime | None
    read_at: datetime | None
    archived_at: datetime | None


class Inbox(Struct):
    """A page of an inbox, newest first, and how many messages of all of it wait: exactly, as long as `unread_more` is
    false."""

    messages: list[InboxMessage]
    unread: int
    unseen: int
    unread_more: bool
    next: str | None


class ReceiptRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Which messages: exactly one of `ids`, `as_of` (those until then) and `all`."""

    ids: Annotated[list[UUID], Meta(max_length=1000)] | UnsetType = UNSET
    as_of: Annotated[datetime, Meta(tz=True)] | UnsetType = UNSET
    all: bool | UnsetType = UNSET
    user: UserId | UnsetType = UNSET


class AckRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Messages that a client has shown."""

    ids: Annotated[list[UUID], Meta(max_length=1000)]
    user: UserId | UnsetType = UNSET


class Acknowledged(Struct):
    """How many of them are messages for this user."""

    acknowledged: int


class Receipted(Struct):
    """The ids that were changed by this request, 1000 at most, and what waits now."""

    receipted: list[str]
    unread: int
    unseen: int
    unread_more: bool
