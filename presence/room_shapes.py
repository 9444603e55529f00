"""What the API tells about rooms."""

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Struct


class RoomMember(Struct):
    user: str
    info: Annotated[Any, Meta(description="What the user said on entering, null if nothing.")]
    connections: Annotated[int, Meta(description="How many of the user's are in the room.")]
    joined_at: datetime


class Room(Struct):
    count: int
    members: list[RoomMember]
    next: str | None
