"""Listeners of rooms, and processes in which they listen, on a bus that loses some events."""

import asyncio
import json
import random
import secrets
from collections.abc import Callable
from typing import Any

import pytest

from presence import registry, rooms
from presence.room_topics import RoomLog
from presence.room_tracker import RoomTracker
from realtime import bus, protocol
from realtime.frames import Event
from realtime.hub import Hub
from realtime.observing import Reason
from realtime.protocol import Since
from tests.realtime.fakes import FakeMembership, Recorder
from tests.realtime.sockets import PATIENCE

KEY = "fanfare:presence:"


class Room:
    """What a listener knows of a room from the events alone. Fails when one is missing between two."""

    def __init__(self) -> None:
        self.version = 0
        self.epoch: str | None = None
        self.count = 0
        self.members: dict[str, Any] | None = {}

    def take(self, event: dict[str, Any]) -> None:
        if event["event"] == "subscribed":
            self.epoch = event["epoch"]
            if "snapshot" in event:
                self._replace(event["snapshot"])
        elif event["event"] == "room" and "snapshot" in event:
            self.epoch = event["epoch"]
            self._replace(event["snapshot"])
        elif event["event"] == "room":
            assert event["version"] == self.version + 1, (event, self.version)
            self.version = event["version"]
            if "count" in event:
                self.count, self.members = event["count"], None
            else:
                assert self.members is not None, "changes are of no use to who knows a count only"
                self.members |= {one["user"]: one["info"] for one in event["joined"]}
                for user in event["left"]:
                    del self.members[user]
                self.count = len(self.members)

    def _replace(self, snapshot: dict[str, Any]) -> None:
        self.version, self.count = snapshot["version"], snapshot["count"]
        members = snapshot.get("members")
        self.members = None if members is None else {one["user"]: one["info"] for one in members}

    @property
    def known(self) -> tuple[int, int, dict[str, Any] | None]:
        return self.version, self.count, self.members


def fresh(room: str) -> tuple[int, int, dict[str, Any] | None]:
    """What somebody knows who comes now."""
    known = Room()
    known._replace(json.loads(rooms.snapshot(room).state))
    return known.known


class Process:
    """A web process's tracker and hub, with a bus that can be made to lose what it is to bring."""

    def __init__(self, loses: float, chance: random.Random) -> None:
        self.boot = secrets.token_hex(8)
        registry.renew(self.boot)
        self.tracker = RoomTracker(self.boot, self._begin_anew)
        self.hub = Hub(
            RoomLog(),
            FakeMembership(),
            shared=lambda _name: False,
            recovery_events=100,
            recovery_bytes=1_000_000,
            is_state=lambda _name: True,
        )
        self.loop = asyncio.get_running_loop()
        self._loses, self._chance = loses, chance
        self.lost = 0

    def _begin_anew(self) -> None:
        """What presence.tracker does."""
        self.boot = secrets.token_hex(8)
        registry.renew(self.boot)
        self.tracker.begin_anew(self.boot)

    def bring(self, events: list[Event]) -> None:
        for event in events:
            if self._chance.random() < self._loses:
                self.lost += 1
            else:
                self.hub.receive(event.topic, [event])

    async def connect(self, user: str | None, *topics: str, info: Any = None) -> Recorder:
        """What the consumer does."""
        connection = Recorder(user)
        await self.subscribe(connection, *topics, info=info)
        return connection

    async def subscribe(self, connection: Recorder, *topics: str, info: Any = None, since: Since | None = None) -> None:
        connection.infos |= {topic: json.dumps(info).encode() for topic in topics}
        found = await self.hub.subscribe(connection, dict.fromkeys(topics, since))
        for one in found:
            connection.send(protocol.subscribed(one.topic, one.epoch, one.offset, one.recovered, snapshot=one.snapshot))
        self.hub.go_live(connection, found)
        self.tracker.changed(connection)

    def leave(self, connection: Recorder, *topics: str) -> None:
        self.hub.unsubscribe(connection, topics)
        self.tracker.changed(connection)

    def close(self, connection: Recorder, reason: Reason = Reason.CLOSED) -> None:
        connection.closed = True
        self.hub.leave(connection)
        self.tracker.closed(connection, reason)


@pytest.fixture
def no_bus(monkeypatch: pytest.MonkeyPatch) -> list[Process]:
    """Processes to put in: each gets what any of them publishes."""
    processes: list[Process] = []

    def publish(events: list[Event]) -> None:
        for one in processes:
            one.loop.call_soon_threadsafe(one.bring, list(events))

    monkeypatch.setattr(bus, "publish", publish)
    return processes


def known_of(listener: Recorder, topic: str) -> Room:
    known = Room()
    for event in listener.events:
        if event.get("topic") == topic:
            known.take(event)
    return known


async def until(condition: Callable[[], bool], explain: Callable[[], object] = str) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(explain()) from None


async def alone(no_bus: list[Process]) -> Process:
    process = Process(0, random.Random(1))
    no_bus.append(process)
    return process
