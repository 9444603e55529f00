"""The topics `board.<name>`: the top of a board, as a state whose offsets are versions."""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from django.db import DatabaseError

from accounts.principals import Principal
from leaderboards import boards, live, rights
from realtime.database import in_threads
from realtime.log import Page, Position
from realtime.redis_scripts import RedisDown
from realtime.topics import Topic

logger = logging.getLogger(__name__)

_threads = ThreadPoolExecutor(2, thread_name_prefix="boards")


class BoardLog:
    """Where the hub reads the truth: a board's top as it is now (realtime.log.Log)."""

    async def positions(self, names: Sequence[str]) -> Mapping[str, Position]:
        """Nowhere, while Redis does not answer: then the hub reads each until it does."""
        try:
            found = await in_threads(_threads, live.positions, [rights.board_of(name) for name in names])
        except RedisDown:
            return dict.fromkeys(names, Position(None, 0))
        return {rights.topic_of(board): position for board, position in found.items()}

    async def read(self, name: str, after: int, limit: int) -> Page:
        at = await in_threads(_threads, _look, rights.board_of(name))
        event = live.snapshot_event(rights.board_of(name), at)
        return Page(at.epoch, at.version, 1, at.version, [event], at.state)


class BoardTopic(Topic):
    """Who may listen to a board is who may read it."""

    log = BoardLog()
    authorizer = "leaderboards.topics.may"
    tells_me = True

    def may_subscribe(self, principal: Principal, name: str) -> bool:
        return principal.has_scope(rights.READ) or principal.can_subscribe(name)


def may(action: str, topic: str, principal: Principal) -> bool:
    """Decides about users by the board's `read`, unless TOPIC_AUTHORIZERS names somebody else for it."""
    name = rights.board_of(topic)
    return action == "subscribe" and rights.may_read(principal, name, boards.find(name))


def _look(board: str) -> live.Snapshot:
    """The board as it is or, while that cannot be found out, as it was last. Raises RedisDown, LookupError."""
    try:
        live.tick([board])
    except DatabaseError as error:
        logger.warning("A live board cannot be brought up to date: %r", error)
    found = live.snapshot(board)
    if found is None:
        raise LookupError("there is no live board yet")
    return found
