"""Destinations at Momento: each event is published to a topic of a cache."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

import msgspec
from msgspec import Meta

from adapters.base import Adapter, Misconfigured, Outcome, Parcel, Target, with_id
from adapters.momento.clients import Failed, Publisher, access, default_cache
from adapters.momento.names import topic_name, validate_template
from adapters.secret_values import secret_value

VALUE_BYTES_MAX = 4096
AT_ONCE = 16
SETTING = "MOMENTO_API_KEY"
POINTED_BYTES_MAX = 512
READABLE = ("message", "task.finished", "board.closed")
"""Events that can be read by the API of this service, from what they say of themselves."""

_NOT_TRIED = Outcome("It stands behind another that has failed.", tried=False)
_NOBODYS = Outcome(
    "It is about no user and nothing else that has a topic: let the destination want no such events.",
    permanent=True,
    blames_event=True,
)
_UNREADABLE = Outcome(
    f"It has more than the {VALUE_BYTES_MAX} bytes that a topic takes, and nobody could read it elsewhere.",
    permanent=True,
    blames_event=True,
)


class MomentoTopic(Adapter):
    """Events as text, each with its id as the first member; where one is too large, a pointer to it.

    What shares a key has its order, for each waits for the answer to the one before.
    """

    ordered = True

    class Options(msgspec.Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
        topic: Annotated[str, Meta(min_length=1, max_length=200, description="Whereto: {name}, {topic}, text.")] = (
            "{name}"
        )

        def __post_init__(self) -> None:
            validate_template(self.topic)

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self._template = msgspec.convert(dict(target.options), self.Options).topic
        self._cache = target.address or default_cache()
        self._secret = secret_value(SETTING)
        self._key = ""
        self._publisher: Publisher | None = None
        self._users: Counter[Publisher] = Counter()

    @classmethod
    def validate(cls, address: str) -> None:
        if not re.fullmatch(r"[^\s/]{0,128}", address) or not address.isprintable():
            raise Misconfigured("address: the name of a cache, or empty for the first of MOMENTO_CACHES")

    async def publish(self, batch: Sequence[Parcel]) -> Sequence[Outcome]:
        if not batch:
            return []
        lines: dict[str, list[int]] = {}
        for at, parcel in enumerate(batch):
            lines.setdefault(parcel.key, []).append(at)
        outcomes = [_NOT_TRIED] * len(batch)
        waiting = iter(lines.values())  # Those who work take the next line, the first one first.
        down = False

        async def work(publish: Publisher) -> None:
            nonlocal down
            for line in waiting:
                for at in line:
                    if down:
                        return
                    outcomes[at] = await self._send(publish, batch[at])
                    if not outcomes[at].delivered:
                        down = down or not outcomes[at].blames_event
                        break

        async with self._publishing() as publish:
            await asyncio.gather(*(work(publish) for _ in range(min(AT_ONCE, len(lines)))))
        return outcomes

    async def check(self) -> str:
        value = msgspec.json.encode({"id": str(uuid4()), "type": "fanfare.check"})
        try:
            async with self._publishing() as publish:
                await publish(self._cache, "fanfare.check", value.decode())
        except Failed as error:
            raise Misconfigured(str(error)) from None
        return f"it takes messages for topics of the cache {self._cache}"

    async def close(self) -> None:
        await self._replace(None)

    @asynccontextmanager
    async def _publishing(self) -> AsyncIterator[Publisher]:
        """With the key as it is now; who has begun with the one before goes on with it."""
        key = await asyncio.to_thread(self._secret.get)
        publisher = self._publisher
        if publisher is None or key != self._key:
            self._key, publisher = key, Publisher(access(key), SETTING)
        self._users[publisher] += 1
        try:
            if publisher is not self._publisher:
                await self._replace(publisher)
            yield publisher
        finally:
            self._users[publisher] -= 1
            if publisher is not self._publisher:
                await self._close_unused(publisher)

    async def _replace(self, publisher: Publisher | None) -> None:
        before, self._publisher = self._publisher, publisher
        if before:
            await self._close_unused(before)

    async def _close_unused(self, publisher: Publisher) -> None:
        if not self._users[publisher]:
            del self._users[publisher]
            await publisher.close()

    async def _send(self, publish: Publisher, parcel: Parcel) -> Outcome:
        if not parcel.key:
            return _NOBODYS
        value = with_id(parcel)
        if len(value) > VALUE_BYTES_MAX:
            if parcel.event not in READABLE:
                return _UNREADABLE
            value = pointer(parcel)
        try:
            await publish(self._cache, topic_name(parcel.key, self._template), value.decode())
        except Failed as error:
            limit = error.code == "RESOURCE_EXHAUSTED"  # Of calls in a second: the next ones fit in.
            about = error.code == "INVALID_ARGUMENT"  # It does not take this name or text; of others, it may.
            return Outcome(str(error), blames_event=about, retry_after=1.0 if limit else 0.0, response=error.code)
        return Outcome()


class _Body(msgspec.Struct):
    type: str
    timestamp: str
    data: Any


def pointer(parcel: Parcel) -> bytes:
    """What a receiver needs to read the event by our API: the id, and what is short of its data."""
    body = msgspec.json.decode(parcel.body, type=_Body)
    data = body.data if isinstance(body.data, dict) else {}
    short = {name: value for name, value in data.items() if len(msgspec.json.encode(value)) <= POINTED_BYTES_MAX}
    return msgspec.json.encode({"id": str(parcel.id), "type": body.type, "timestamp": body.timestamp, "pointer": short})
