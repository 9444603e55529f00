"""What there is to hand out to each of many sessions: new messages, and those that are due again.

Passed over is what is expired, recalled, not for the user, not wanted live, or older than the session keeps it.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import merge
from itertools import chain
from uuid import UUID

from notifications import preferences, reading
from notifications.history import MISSING
from notifications.models import Message, Topic
from notifications.reading import Stretch
from realtime.log import Position
from sessions_app.models import BrowserSession
from sessions_app.sessions import topics_of
from sessions_app.state import State

LENT_MAX = 100  # To a session: beyond, it gets nothing new until it acknowledges some.
READ_AT_ONCE = 25  # Messages of each topic.


@dataclass(frozen=True, slots=True)
class Offer:
    """A message, with its offset if it is new to the session; or `reset` of a topic, whose name is the id."""

    id: str
    topic: str
    offset: int | None = None


@dataclass(slots=True)
class Queue:
    """A session whose row is locked."""

    row: BrowserSession
    state: State
    line: list[Offer] = field(default_factory=list)  # In the order in which they are handed out.
    looked: dict[str, int] = field(default_factory=dict)  # How far each topic was looked through.
    more: bool = False  # There is more to look through.

    @property
    def full(self) -> bool:
        return len(self.state.lent) >= LENT_MAX

    def lend(self, most: int, until: float) -> list[tuple[str, str]]:
        """Hands out what comes first -> ids and receipts."""
        lent: list[tuple[str, str]] = []
        left: list[Offer] = []
        for offer in self.line:
            if len(lent) == most or (offer.offset and self.full):
                left.append(offer)
            else:
                lent.append((offer.id, self.state.lend(offer.id, until)))
        self.line = left
        return lent

    def advance(self) -> None:
        """Moves on as far as topics were looked through, but not beyond what is still in line."""
        for offer in reversed(self.line):
            if offer.offset:
                self.looked[offer.topic] = offer.offset - 1
        for name, through in self.looked.items():
            self.state.at[name] = (self.state.at[name][0], through)


def offer(queues: Collection[Queue], now: datetime) -> None:
    """Fills their lines. Topics that are new to a session begin here; a numbering that is new owes it a `reset`."""
    if queues:
        shelf = _Shelf(queues, now)
        for queue in queues:
            shelf.fill(queue)


def has_news(queues: Collection[Queue], now: datetime) -> set[str]:
    """Those of these sessions for which there may be something; their states follow their topics."""
    heard = {queue.row.pk: topics_of(queue.row) for queue in queues}
    topics = reading.topics(set(chain(*heard.values()))) if heard else {}
    news: set[str] = set()
    for queue in queues:
        queue.state.follow({name: _position(topics.get(name)) for name in heard[queue.row.pk]})
        is_ahead = any(topics[name].head > at for name, (_, at) in queue.state.at.items() if name in topics)
        if queue.state.due(now.timestamp()) or (is_ahead and not queue.full):
            news.add(queue.row.pk)
    return news


class _Shelf:
    """What the log has for some sessions, read for all of them at once."""

    def __init__(self, queues: Collection[Queue], now: datetime) -> None:
        self._now = now
        heard = {queue.row.pk: topics_of(queue.row) for queue in queues}
        self._topics = reading.topics(set(chain(*heard.values())))
        for queue in queues:
            queue.state.follow({name: _position(self._topics.get(name)) for name in heard[queue.row.pk]})
        due = reading.still_visible(set(chain(*map(self._due_ids, queues))))
        self._due = {message.id: message for message in due}
        for queue in queues:
            self._drop_lost(queue)
        self._wanted = {queue.row.pk: self._stretches(queue) for queue in queues}
        self._new = reading.stretches({one for some in self._wanted.values() for one in some.values()}, READ_AT_ONCE)
        new, users = list(chain(*self._new.values())), {queue.row.user for queue in queues}
        self._not_live = reading.not_live(new, users)
        self._mutes = preferences.muted_by(users) if new else {}

    def fill(self, queue: Queue) -> None:
        messages = [self._due[id] for id in self._due_ids(queue)]
        for name, stretch in self._wanted[queue.row.pk].items():
            found = self._new[stretch]
            is_all = len(found) < READ_AT_ONCE
            queue.looked[name] = stretch.through if is_all else found[-1].offset or 0
            queue.more |= not is_all
            messages += [message for message in found if self._is_for(queue.row.user, name, message)]
        names, lent = self._names(queue), queue.state.lent
        queue.line = [Offer(name, name) for name in self._due_resets(queue)]
        for message in _in_order(messages):
            id = str(message.id)
            queue.line.append(Offer(id, names[message.topic_id], None if id in lent else message.offset))

    def _drop_lost(self, queue: Queue) -> None:
        """What is due again, but is not to be seen any more, or is too old."""
        names, since = self._names(queue), self._since(queue)
        for id in list(self._due_ids(queue)):
            message = self._due.get(id)
            if message is None or message.topic_id not in names or message.created_at <= since:
                del queue.state.lent[str(id)]

    def _names(self, queue: Queue) -> dict[int, str]:
        """The session's topics, by their rows."""
        return {self._topics[name].pk: name for name in queue.state.at if name in self._topics}

    def _is_for(self, user: str, topic: str, message: Message) -> bool:
        if (message.id, user) in self._not_live:
            return False
        return topic.startswith("session.") or message.type not in self._mutes[user]

    def _since(self, queue: Queue) -> datetime:
        return self._now - timedelta(seconds=queue.row.retention)

    def _stretches(self, queue: Queue) -> dict[str, Stretch]:
        """What is new to a session, if it may have any of it."""
        return {
            name: Stretch(topic.pk, offset, topic.head, self._since(queue))
            for name, (_epoch, offset) in queue.state.at.items()
            if (topic := self._topics.get(name)) and topic.head > offset and not queue.full
        }

    def _due_ids(self, queue: Queue) -> Iterator[UUID]:
        return (UUID(id) for id in queue.state.due(self._now.timestamp()) if id not in queue.state.at)

    def _due_resets(self, queue: Queue) -> Iterator[str]:
        return (name for name in queue.state.due(self._now.timestamp()) if name in queue.state.at)


def _position(topic: Topic | None) -> Position:
    return Position(topic.epoch, topic.head) if topic else MISSING


def _in_order(messages: Collection[Message]) -> Iterator[Message]:
    """By the time of acceptance; within a topic by offset, whatever the clocks said."""
    topics: dict[int, list[Message]] = {}
    for message in sorted(messages, key=lambda message: message.offset or 0):
        topics.setdefault(message.topic_id, []).append(message)
    return merge(*topics.values(), key=lambda message: (message.created_at, message.id))
