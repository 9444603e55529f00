"""Watching many users at once: what is told comes at most four times a second, the newest only, and nothing is lost."""

import asyncio
import json
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from django.db import transaction

from accounts.principals import Kind, Principal
from presence import live, states
from presence import watching as module
from presence.models import Presence
from presence.watching import Watching
from realtime.database import in_database
from realtime.frames import Event
from realtime.receiver import Listener
from tests.presence.watchers import Collector, somebody

SERVICE = Principal(Kind.SERVICE, "backend", scopes=frozenset({"presence:read"}))


class FakeReceiver:
    """A bus that the test carries by hand."""

    def __init__(self) -> None:
        self.joined: list[str] = []

    def listen(self, name: str, _listener: Listener) -> asyncio.Future[None]:
        self.joined.append(name)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    def ignore(self, name: str) -> None:
        self.joined.remove(name)


class FakeHub:
    def listeners(self, _name: str) -> list[Any]:
        return []


def new_watching() -> tuple[Watching, FakeReceiver]:
    receiver = FakeReceiver()
    return Watching(receiver, FakeHub()), receiver  # type: ignore[arg-type]


def write(user: str, **fields: Any) -> Presence:
    """A change as settling makes one, without its event."""
    with transaction.atomic():
        Presence.objects.bulk_create([Presence(user=user)], ignore_conflicts=True)
        row = Presence.objects.select_for_update().get(pk=user)
        row.version += 1
        for name, value in fields.items():
            setattr(row, name, value)
        row.save()
    return row


def event(row: Presence) -> Event:
    return live.change_event(states.seen(row))


def state_of(told: dict[str, Any]) -> tuple[int, str, str]:
    return told["version"], told["status"], told["text"]


class View:
    """What a client knows that takes the snapshot and then what comes, without looking at versions."""

    def __init__(self) -> None:
        self.connection = Collector()
        self.users: dict[str, tuple[int, str, str]] = {}
        self._read = 0

    def begin(self, snapshot: Sequence[bytes]) -> None:
        self._read = len(self.connection.frames)
        self.users = {one["user"]: state_of(one) for one in map(json.loads, snapshot)}

    def read(self) -> None:
        for frame in self.connection.frames[self._read :]:
            for one in frame["presences"]:
                before, now = self.users[one["user"]], state_of(one)
                assert now[0] > before[0] or now[0] == 0, "an older version came after a newer one"
                self.users[one["user"]] = now
        self._read = len(self.connection.frames)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRAME_SECONDS", 0.01)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(8))
async def test_snapshot_and_events_equal_a_fresh_snapshot_whatever_the_bus_does(seed: int) -> None:
    chance = random.Random(seed)
    names = [somebody() for _ in range(6)]
    watching, receiver = new_watching()
    views = [View() for _ in range(3)]
    on_their_way: list[Event] = []

    async def change() -> None:
        status, text = chance.choice(["ONLINE", "OFFLINE"]), str(chance.random())
        row = await in_database(write, chance.choice(names), status=status, text=text)
        if chance.random() > 0.2:  # Else it is lost.
            on_their_way.extend([event(row)] * chance.choice([1, 1, 2]))

    async def carry() -> None:
        chance.shuffle(on_their_way)
        count = chance.randint(0, len(on_their_way))
        watching.heard(on_their_way[:count])
        del on_their_way[:count]

    async def enter() -> None:
        view = chance.choice(views)
        view.read()
        chosen = chance.sample(names, chance.randint(0, len(names)))
        snapshot, refused = await watching.watch(view.connection, SERVICE, chosen)
        assert not refused
        view.begin(snapshot)

    async def leave() -> None:
        view = chance.choice(views)
        view.read()
        watching.unwatch(view.connection)
        view.users = {}

    for _ in range(60):
        first, *others = chance.choices([enter, leave, carry, change], weights=[2, 1, 4, 6], k=3)
        await asyncio.gather(first(), *(one() for one in others if one in (carry, change)))
    await watching.check()
    await asyncio.sleep(0.03)
    for view in views:
        view.read()
        rows = await in_database(states.find, list(view.users))
        assert view.users == {row.user: (row.version, row.status, row.text) for row in rows}
        watching.unwatch(view.connection)
    assert (watching._of, watching._known, receiver.joined) == ({}, {}, [])


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("heard", [True, False])
async def test_who_is_erased_is_offline_and_numbered_anew(heard: bool) -> None:
    watching, _ = new_watching()
    view, name = View(), somebody()
    for _ in range(3):
        row = await in_database(write, name, status="ONLINE", text="here")
    view.begin((await watching.watch(view.connection, SERVICE, [name]))[0])
    assert view.users[name] == (3, "ONLINE", "here")
    await in_database(lambda: Presence.objects.filter(pk=name).delete())
    watching.heard([event(Presence(user=name))] if heard else [event(row)])
    await watching.check()
    await asyncio.sleep(0.03)
    view.read()
    assert view.users[name] == (0, "OFFLINE", "")
    watching.heard([event(await in_database(write, name, status="ONLINE", text="back"))])
    await asyncio.sleep(0.03)
    view.read()
    assert view.users[name] == (1, "ONLINE", "back")


@pytest.mark.django_db(transaction=True)
async def test_frames_come_a_quarter_of_a_second_apart_and_name_the_newest_of_each() -> None:
    watching, _ = new_watching()
    loop, names = asyncio.get_running_loop(), [somebody(), somebody()]
    connection = Collector()
    await watching.watch(connection, SERVICE, names)
    until, version = loop.time() + 0.9, 0
    while loop.time() < until:
        version += 1
        watching.heard([event(Presence(user=name, version=version)) for name in names])
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.3)
    times = connection.times
    assert 4 <= len(times) <= 5
    assert all(later - earlier > 0.24 for earlier, later in pairwise(times))
    assert all([one["user"] for one in frame["presences"]] == names for frame in connection.frames)
    assert {one["version"] for one in connection.frames[-1]["presences"]} == {version}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("quick")
async def test_a_reader_who_is_behind_gets_the_newest_when_it_has_caught_up() -> None:
    watching, _ = new_watching()
    connection, name = Collector(), somebody()
    await watching.watch(connection, SERVICE, [name])
    connection.is_behind = True
    for version in range(1, 50):
        watching.heard([event(Presence(user=name, version=version))])
        await asyncio.sleep(0.001)
    assert connection.frames == []
    connection.is_behind = False
    await asyncio.sleep(0.05)
    assert [[one["version"] for one in frame["presences"]] for frame in connection.frames] == [[49]]
