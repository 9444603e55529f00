"""The bodies of records from outside, as other systems write them."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, field

from notifications.shapes import UserId

AnyId = Annotated[str, Meta(min_length=1, max_length=200)] | int  # Some have numbers; ours are texts.


class SumuRecord(Struct, forbid_unknown_fields=True):
    """No `users`: for everyone. An unknown field is refused, for a misspelt `users` would mean everyone, too."""

    data: Any
    users: Annotated[list[AnyId], Meta(min_length=1)] | UnsetType = UNSET
    exclude_users: Annotated[list[AnyId], Meta(max_length=1000)] = []


class ReutersRecord(Struct):
    """Whom a message is for; it is the whole record. None of the ids: for everyone."""

    account: AnyId | UnsetType = field(name="accountId", default=UNSET)
    user: AnyId | UnsetType = field(name="userId", default=UNSET)
    session: AnyId | UnsetType = field(name="sessionId", default=UNSET)
    type: Annotated[str, Meta(min_length=1, max_length=100)] = field(name="_type", default="message")
    message_id: AnyId | UnsetType = field(name="messageId", default=UNSET)


class TaskRecord(Struct, forbid_unknown_fields=True):
    user: UserId | UnsetType = UNSET
    userId: AnyId | UnsetType = UNSET
    type: Annotated[str, Meta(min_length=1, max_length=100)] = "echo"
    payload: Any = UNSET
    data: str | UnsetType = UNSET
