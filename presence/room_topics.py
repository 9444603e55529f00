"""The topics `presence.<room>`: who listens is in the room. Their offsets are the room's versions."""

from collections.abc import Mapping, Sequence

from accounts.principals import Principal
from presence import rooms
from realtime.database import in_threads
from realtime.log import Page, Position
from realtime.redis_scripts import RedisDown
from realtime.topics import Topic

NOWHERE = Position(None, 0)


class RoomLog:
    """Where the hub reads the truth: a room as it is now (realtime.log.Log)."""

    async def positions(self, names: Sequence[str]) -> Mapping[str, Position]:
        """Nowhere, while Redis does not answer: then the hub reads each until it does."""
        by_room = {rooms.room_of(name) or "": name for name in names}
        try:
            found = await in_threads(rooms.threads, rooms.positions, list(by_room))
        except RedisDown:
            return dict.fromkeys(names, NOWHERE)
        return {by_room[room]: position for room, position in found.items()}

    async def read(self, name: str, after: int, limit: int) -> Page:
        at = await in_threads(rooms.threads, rooms.snapshot, rooms.room_of(name) or "")
        event = rooms.snapshot_event(name, at)
        return Page(at.epoch, at.version, 1, at.version, [event], at.state)


class RoomTopic(Topic):
    """Users enter by capability, or as TOPIC_AUTHORIZERS says; services listen by scope, and are not in the room."""

    log = RoomLog()
    takes_info = True

    def may_subscribe(self, principal: Principal, name: str) -> bool:
        return principal.has_scope("presence:read") or principal.can_subscribe(name)
