"""How listening goes on over lost connections: positions, repetitions, when to come back. No I/O.

The shells in live.py and async_live.py connect, hand on what comes, and ask what to do when the connection is lost.
"""

import json
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from fanfare_client import events
from fanfare_client.calls import Reply
from fanfare_client.conversation import refusal
from fanfare_client.credentials import fresh_until
from fanfare_client.errors import FanfareError
from fanfare_client.events import Connected, Disconnected, Event, Refused, Reset, Snapshot
from fanfare_client.shapes import START, Counts, Message, Position

FRAME_MAX_BYTES = 4 * 1024 * 1024
RECALLED_KEPT = 1000
FIRST_PAUSE, LONGEST_PAUSE, SLOWER_PAUSE = 0.5, 30.0, 5.0
STEADY_SECONDS = 10.0
REFRESH_PAUSE = 5.0

_TOKEN_EXPIRED, _RATE_LIMITED, _TOO_LARGE = 4401, 4429, 1009
_FOR_GOOD = {4500: "bad_frames", 4501: "unauthenticated", 4502: "revoked", 4503: "kicked"}
_LATER = frozenset({"busy", "unavailable", "authorizer_unavailable", "keys_unavailable", "rate_limited"})
_REFRESH = "refresh"

socket_logger = logging.getLogger("fanfare_client.socket")
socket_logger.setLevel(logging.INFO)  # At DEBUG the library writes tokens into the log.

Since = Mapping[str, Position | None] | Position | None


class ConnectAnew(Exception):
    """The server could not subscribe to a topic just now: come back, and ask again."""


class TokenFailed(Exception):
    """The function that gets tokens could not."""

    def __init__(self, error: FanfareError) -> None:
        super().__init__(str(error))
        self.error = error


class Listening:
    """`positions`: how far each topic has been read; None until that is known. Keep them to go on later."""

    def __init__(self, topics: Sequence[str] | None, since: Since, me: bool) -> None:
        self._defaults = topics is None
        self._me = me
        self.positions: dict[str, Position | None] = dict.fromkeys(topics or ())
        if isinstance(since, Position):
            self.positions = dict.fromkeys(self.positions, since)
        elif since is not None:
            self.positions.update(since)
            self._defaults = False
        if isinstance(since, Position) and topics is None:
            raise ValueError("Name the topics that are to begin there.")
        self._failures = 0
        self._welcomed_at: float | None = None
        self._refresh_not_before = 0.0
        self._recalled: OrderedDict[str, None] = OrderedDict()
        self.stale_token: str | None = None

    # --- Going on the line ------------------------------------------------------------------------

    def query(self) -> str:
        """For the socket's URL: the topics that begin with it, from now on."""
        self._welcomed_at = None
        if self._defaults:
            return ""
        return "?topics=" + ",".join(
            quote(topic, safe="") for topic, at in self.positions.items() if self._plain(topic)
        )

    def greeting(self) -> list[str]:
        """What to send at once: the topics that go on from where they were."""
        return [self._subscribe(topic, at) for topic, at in self.positions.items() if not self._plain(topic)]

    def _plain(self, topic: str) -> bool:
        return self.positions[topic] is None and not (self._me and topic.startswith("board."))

    def _subscribe(self, topic: str, at: Position | None) -> str:
        frame: dict[str, Any] = {"action": "subscribe", "topic": topic, "ref": topic}
        if at is not None:  # Without an epoch it was empty: from its beginning; what is here already is dropped.
            since = at if at.epoch else START
            frame["since"] = {"epoch": since.epoch, "offset": since.offset}
        if self._me and topic.startswith("board."):
            frame["me"] = True
        return json.dumps(frame)

    def refresh(self, token: str) -> str:
        """What to send so that the connection outlives its token."""
        return json.dumps({"action": "refresh", "token": token, "ref": _REFRESH})

    def until_refresh(self, token: str) -> float | None:
        """Seconds until another token is due; None where this one does not end."""
        until = fresh_until(token)
        return None if until is None else max(0.0, until - time.time(), self._refresh_not_before - time.monotonic())

    def refreshing(self) -> None:
        """Another token is asked for: not again at once, whatever comes of it."""
        self._refresh_not_before = time.monotonic() + REFRESH_PAUSE

    def without_token(self, error: FanfareError) -> Disconnected:
        """No token can be had. Raises the error where there is no sense in asking again."""
        if 0 < error.status < 500 and error.status != 429:
            raise error
        return self._again(1006, f"no token: {error}", 0.0)

    # --- What comes -------------------------------------------------------------------------------

    def receive(self, frame: str | bytes) -> Iterator[Event]:
        """The events of a frame. Raises FanfareError for what is no frame, and where no topic is left; ConnectAnew."""
        match events.kind_of(frame):
            case "welcome":
                yield from self._welcome(events.parsed(frame, events.Welcome))
            case "subscribed":
                yield from self._subscribed(events.parsed(frame, events.Subscribed))
            case "reset":
                reset = events.parsed(frame, events.TopicFrame)
                position = self._move(reset.topic, reset.epoch, reset.offset)
                yield Reset(topic=reset.topic, position=position)
            case "unsubscribed":
                topic = events.parsed(frame, events.TopicFrame).topic
                yield from self._drop(topic, "unsubscribed", "The token that opened it does not any more.")
            case "error":
                yield from self._error(events.parsed(frame, events.ErrorFrame))
            case "presence":
                yield events.presence_event(frame)
            case kind if kind in events.PASSED_ON:
                event = events.parsed(frame, events.PASSED_ON[kind])
                if self._is_new(event):
                    yield event

    def _welcome(self, welcome: events.Welcome) -> Iterator[Event]:
        self._welcomed_at = time.monotonic()
        self._defaults = False
        counts = None
        if welcome.unread is not None and welcome.unseen is not None:
            counts = Counts(unread=welcome.unread, unseen=welcome.unseen, unread_more=welcome.unread_more)
        yield Connected(user=welcome.user, counts=counts)
        for topic, place in welcome.topics.items():
            self._move(topic, place.epoch, place.offset)
            if place.snapshot is not None:
                yield Snapshot(topic=topic, snapshot=place.snapshot)

    def _subscribed(self, subscribed: events.Subscribed) -> Iterator[Event]:
        position = self._move(subscribed.topic, subscribed.epoch, subscribed.offset)
        if subscribed.snapshot is not None:
            yield Snapshot(topic=subscribed.topic, snapshot=subscribed.snapshot)
        elif not subscribed.recovered:
            yield Reset(topic=subscribed.topic, position=position)

    def _error(self, error: events.ErrorFrame) -> Iterator[Event]:
        topic = error.topic or (error.ref if isinstance(error.ref, str) and error.ref in self.positions else None)
        if topic is None:
            return  # A refused `refresh`: the server will close when the old token ends.
        if error.code in _LATER:
            raise ConnectAnew(error.message)
        yield from self._drop(topic, error.code, error.message)

    def _drop(self, topic: str, code: str, message: str) -> Iterator[Event]:
        self.positions.pop(topic, None)
        if not self.positions and not self._defaults:
            raise FanfareError(403, code, message)
        yield Refused(topic=topic, code=code, message=message)

    def _move(self, topic: str, epoch: str | None, offset: int) -> Position:
        position = Position(epoch=epoch, offset=offset)
        self.positions[topic] = position
        return position

    def _is_new(self, event: Any) -> bool:
        if isinstance(event, events.Recalled):
            self._recalled[event.id] = None
            if len(self._recalled) > RECALLED_KEPT:
                self._recalled.popitem(last=False)
        if isinstance(event, events.RoomEvent | events.BoardEvent) and event.version is not None:
            before = self.positions.get(event.topic)
            self._move(event.topic, event.epoch or (before.epoch if before else None), event.version)
        if not isinstance(event, Message):
            return True
        at = self.positions.get(event.topic)
        if event.offset is not None and at is not None:
            if event.offset <= at.offset:
                return False
            self._move(event.topic, at.epoch, event.offset)
        return event.id not in self._recalled

    # --- When the connection is lost --------------------------------------------------------------

    def closed(self, code: int, reason: str, token: str, *, by_us: bool = False) -> Disconnected:
        """The socket was closed. Raises FanfareError where there is no sense in coming back."""
        if by_us and code == _TOO_LARGE:
            raise FanfareError(code, "bad_reply", f"A frame of more than {FRAME_MAX_BYTES} bytes: not Fanfare's.")
        if 4500 <= code <= 4999:
            raise FanfareError(code, _FOR_GOOD.get(code, "closed"), reason or "The server does not want this client.")
        if code == _TOKEN_EXPIRED:
            self.stale_token = token
        return self._again(code, reason, SLOWER_PAUSE if code == _RATE_LIMITED else 0.0)

    def refused(self, reply: Reply) -> Disconnected:
        """The handshake was answered by this. Raises FanfareError where there is no sense in coming back."""
        error = refusal(reply)
        if reply.status not in (429, 502, 503, 504):
            raise error
        return self._again(1006, error.message, min(error.retry_after or 0.0, LONGEST_PAUSE))

    def broken(self, error: Exception) -> Disconnected:
        """There is no connection."""
        return self._again(1006, str(error) or type(error).__name__, 0.0)

    def same_token(self) -> FanfareError:
        """What to raise where there is no other token than the one that has expired."""
        message = "The token has expired. Give the client a function that gets a fresh one."
        return FanfareError(_TOKEN_EXPIRED, "token_expired", message)

    def _again(self, code: int, reason: str, least: float) -> Disconnected:
        if self._welcomed_at is not None and time.monotonic() - self._welcomed_at > STEADY_SECONDS:
            self._failures = 0
        bound = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 10))
        self._failures += 1
        pause = least + random.uniform(0, bound)  # noqa: S311 (no secret)
        return Disconnected(code=code, reason=reason, pause=pause)
