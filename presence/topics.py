"""The topics `watch.<user>`: one user's presence, as a state whose offsets are versions."""

from collections.abc import Mapping, Sequence

import msgspec

from accounts.principals import Principal
from presence import live, rights, states
from realtime.database import in_database
from realtime.log import Page, Position
from realtime.topics import Topic


class WatchLog:
    """Where the hub reads the truth: only the newest version is ever of interest."""

    async def positions(self, names: Sequence[str]) -> Mapping[str, Position]:
        found = await in_database(states.versions, [rights.user_of(name) for name in names])
        return {name: _position(found.get(rights.user_of(name), 0)) for name in names}

    async def read(self, name: str, after: int, limit: int) -> Page:
        (row,) = await in_database(states.find, [rights.user_of(name)])
        state = states.seen(row)
        at = _position(state.version)
        events = [live.topic_event(state)] if state.version > after else []
        # Who comes anew gets a snapshot; who was here goes on with the newest event.
        return Page(at.epoch, at.head, 1, at.head, events, None if after else msgspec.json.encode(state))


class WatchTopic(Topic):
    """Users see themselves and, as `authorizer` says, those of their account; others by scope or capability."""

    log = WatchLog()
    authorizer = "presence.rights.may"

    def may_subscribe(self, principal: Principal, name: str) -> bool:
        return rights.freely(principal, rights.user_of(name))


def _position(version: int) -> Position:
    return Position(live.EPOCH, version) if version else Position(None, 0)
