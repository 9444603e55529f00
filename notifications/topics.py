"""The topics of the log: who may read and write them, and how the hub reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from accounts.principals import Principal
from notifications import history, log
from notifications.drafts import checked_type, encoded
from realtime.database import in_database
from realtime.log import Page, Position
from realtime.topics import Topic


class DatabaseLog:
    """Where the hub reads the truth (realtime.log.Log)."""

    async def positions(self, names: Sequence[str]) -> Mapping[str, Position]:
        return await in_database(history.positions, names)

    async def read(self, name: str, after: int, limit: int) -> Page:
        return await in_database(history.read, name, after, limit)


class LogTopic(Topic):
    """Services read and write by their scopes; users their own topics, and others by capability."""

    def may_subscribe(self, principal: Principal, name: str) -> bool:
        return (
            principal.has_scope("notifications:read") or principal.can_subscribe(name) or name in principal.own_topics
        )

    def may_publish(self, principal: Principal, name: str) -> bool:
        return principal.has_scope("notifications:write") or principal.can_publish(name)

    def publish(self, principal: Principal, name: str, type: str, data: Any) -> dict[str, Any]:
        draft = log.Draft([name], encoded(data), type=checked_type(type), sender=principal.user or "")
        (result,) = log.accept([draft])
        return msgspec.structs.asdict(result.accepted[0])


class UserTopic(LogTopic):
    pass


class AccountTopic(LogTopic):
    shared = True


class AllTopic(LogTopic):
    keyed = False
    shared = True


class NamedTopic(LogTopic):
    shared = True
