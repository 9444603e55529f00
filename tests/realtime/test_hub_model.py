"""The hub against a model: whatever the bus, the log and clients do, nobody misses a message without being told.

A state machine sends, loses, repeats and reorders events, drops and reconnects clients, recalls, expires and deletes
messages, stops log and bus. In the end the bus is as it should be, and each client has every message that it may see,
once and in order, from where it began or was told to reload.
"""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from realtime import fanout, local_topic, protocol
from realtime import hub as hub_module
from realtime.connections import Connection
from realtime.frames import Event
from realtime.hub import Hub, Subscription
from realtime.local_topic import CatchUp, LocalTopic
from realtime.log import Page
from realtime.protocol import CloseCode, Since
from tests.realtime.fakes import FakeLog, FakeMembership, Recorder, VirtualLoop

pytestmark = pytest.mark.any_database

TOPICS = ["all", "user.alice"]  # The first one is shared.
USERS = ["alice", "bob"]
SMALL = {"RECENT_EVENTS": 4, "AHEAD_EVENTS": 3, "HELD_EVENTS": 4, "READ_EVENTS": 2}  # So that bounds are met.
RECOVERY_EVENTS = 4
CHECK_SECONDS = 25.0
FRESH_SECONDS = 1.0


@dataclass(slots=True)
class Place:
    """Where a client stands in a topic, kept as docs/protocol.md says."""

    epoch: str | None
    offset: int
    began: int  # It has to have everything after this offset.
    got: list[int] = field(default_factory=list)


class Client(Recorder):
    """A client that keeps positions, over its connections, and asserts what it can at once."""

    def __init__(self, user: str, places: dict[str, Place]) -> None:
        super().__init__(user)
        self.places = places
        self.coming: asyncio.Task[None] | None = None

    def write(self, data: Sequence[bytes]) -> None:
        assert not self.closed
        for body in data:
            self._take(json.loads(body))

    def _take(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "welcome":
                for name, at in event["topics"].items():
                    self.places[name] = Place(at["epoch"], at["offset"], began=at["offset"])
            case "subscribed":
                self._subscribed(event)
            case "reset":
                self._reload(event)
            case "message":
                self._message(event)

    def _subscribed(self, event: dict[str, Any]) -> None:
        place = self.places.get(event["topic"])
        if not event["recovered"] or place is None:
            self._reload(event)
            return
        assert place.epoch in (None, event["epoch"]), "another numbering, and it was not told"
        assert event["offset"] >= place.offset, "back to before what it has"
        place.epoch, place.offset = event["epoch"], event["offset"]

    def _reload(self, event: dict[str, Any]) -> None:
        self.places[event["topic"]] = Place(event["epoch"], event["offset"], began=event["offset"])

    def _message(self, event: dict[str, Any]) -> None:
        place = self.places[event["topic"]]
        assert event["offset"] > place.offset, "twice, or out of order"
        place.offset = event["offset"]
        place.got.append(event["offset"])


class World(RuleBasedStateMachine):
    """What can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)
        self.failures: list[BaseException] = []
        self.loop.set_exception_handler(lambda _loop, context: self.failures.append(_cause(context)))
        self.log = FakeLog()
        self.log.seconds = 0.2
        self.membership = FakeMembership()
        self.membership.on_join = lambda name: self.fresh.append(name)
        self.fresh: list[str] = []
        self.hub = hub_module.Hub(
            self.log,
            self.membership,
            shared=lambda name: name == TOPICS[0],
            recovery_events=RECOVERY_EVENTS,
            recovery_bytes=100_000,
        )
        self.flying: list[list[Event]] = []
        self.bus_is_up = True
        self.clients: list[Client] = []
        self.gone: list[Client] = []
        self.old_places: list[dict[str, Place]] = []
        self.epochs = 1
        self.everything: dict[tuple[str, int], Event] = {}  # A new epoch goes on with the old offsets.
        self.recalled: set[tuple[str, int]] = set()
        self.background = [self.loop.create_task(self._check_positions()), self.loop.create_task(self._check_fresh())]

    # --- Messages ---------------------------------------------------------------------------------

    @rule(
        topic=st.sampled_from(TOPICS),
        count=st.integers(1, 3),
        exclude=st.sets(st.sampled_from(USERS), max_size=1),
        ttl=st.none() | st.sampled_from([0.03, 3.0, 1000.0]),
        together=st.booleans(),
    )
    def notify(self, topic: str, count: int, exclude: set[str], ttl: float | None, together: bool) -> None:
        events = []
        for _ in range(count):
            event = self.log.append(topic, exclude=exclude, expires_at=None if ttl is None else self.loop.now + ttl)
            self.everything[topic, event.offset or 0] = event
            events.append(event)
        if self.bus_is_up:
            self.flying += [events] if together else [[event] for event in events]

    @rule(topic=st.sampled_from(TOPICS), count=st.integers(3, 8))
    def burst(self, topic: str, count: int) -> None:
        self.notify(topic, count, set(), None, True)
        self.all_events_arrive()

    @rule(topic=st.sampled_from(TOPICS), back=st.integers(0, 5), lost=st.booleans())
    def recall(self, topic: str, back: int, lost: bool) -> None:
        stored = self.log.topics.get(topic)
        if stored is None or stored.head - back < 1:
            return
        event = self.log.recall(topic, stored.head - back)
        self.recalled.add((topic, stored.head - back))
        if self.bus_is_up and not lost:
            self.flying.append([event])

    @rule(topic=st.sampled_from(TOPICS), kept=st.integers(0, 4))
    def end_retention(self, topic: str, kept: int) -> None:
        if topic in self.log.topics:
            stored = self.log.topics[topic]
            self.log.retain_from(topic, max(stored.tail, stored.head - kept + 1))

    @rule(topic=st.sampled_from(TOPICS))
    def rotate_epoch(self, topic: str) -> None:
        if topic in self.log.topics:
            self.epochs += 1
            self.log.topics[topic].epoch = f"epoch {self.epochs}"

    # --- The bus ----------------------------------------------------------------------------------

    @precondition(lambda self: self.flying)
    @rule(which=st.integers(0, 3), fate=st.sampled_from(["arrives", "arrives", "arrives", "is repeated", "is lost"]))
    def event(self, which: int, fate: str) -> None:
        events = self.flying[which % len(self.flying)]
        if fate != "is repeated":
            self.flying.remove(events)
        if fate != "is lost":
            self._bring(events)

    @rule()
    def all_events_arrive(self) -> None:
        flying, self.flying = self.flying, []
        for events in flying:
            self._bring(events)

    @rule()
    def bus_turns(self) -> None:
        self.bus_is_up = not self.bus_is_up
        if not self.bus_is_up:
            self.flying.clear()
        self.loop.create_task(self._check(self.hub.names(), doubt=True))

    @rule(seconds=st.sampled_from([0.0, 0.3]))
    def joins_take(self, seconds: float) -> None:
        self.membership.seconds = seconds

    # --- The log and the time ---------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.02, 0.2]))
    def log_takes(self, seconds: float) -> None:
        self.log.seconds = seconds

    @rule()
    def log_turns(self) -> None:
        self.log.down = not self.log.down

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.02, 0.06, 0.3, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule(names=st.lists(st.sampled_from(TOPICS), max_size=2))
    def check(self, names: list[str]) -> None:
        self.loop.create_task(self._check(names))

    # --- Clients ----------------------------------------------------------------------------------

    @rule(user=st.sampled_from(USERS), topics=st.lists(st.sampled_from(TOPICS), min_size=1, unique=True))
    def connect(self, user: str, topics: list[str]) -> None:
        self._start(Client(user, {}), dict.fromkeys(topics))

    @precondition(lambda self: self.clients)
    @rule(which=st.integers(0, 5))
    def drop(self, which: int) -> None:
        client = self.clients.pop(which % len(self.clients))
        self._leave(client)
        self.gone.append(client)
        self.old_places.append({name: Place(p.epoch, p.offset, p.offset) for name, p in client.places.items()})

    @precondition(lambda self: self.gone)
    @rule(which=st.integers(0, 5))
    def reconnect(self, which: int) -> None:
        self._resume(self.gone.pop(which % len(self.gone)))

    @precondition(lambda self: self.old_places)
    @rule(user=st.sampled_from(USERS), which=st.integers(0, 10))
    def connect_from_an_old_position(self, user: str, which: int) -> None:
        places = self.old_places[which % len(self.old_places)]
        copied = {name: Place(p.epoch, p.offset, p.offset) for name, p in places.items()}
        self._start(Client(user, copied), {name: Since(p.epoch, p.offset) for name, p in copied.items()})

    @rule(user=st.sampled_from(USERS), topic=st.sampled_from(TOPICS), back=st.integers(0, 5), count=st.integers(1, 6))
    def connect_while_events_come(self, user: str, topic: str, back: int, count: int) -> None:
        if stored := self.log.topics.get(topic):
            place = Place(stored.epoch, max(0, stored.head - back), began=max(0, stored.head - back))
            self._start(Client(user, {topic: place}), {topic: Since(place.epoch, place.offset)})
            self.time_passes(self.log.seconds * 0.75)
            self.burst(topic, count)

    @rule(topic=st.sampled_from(TOPICS), offset=st.integers(-1, 30))
    def connect_from_nowhere(self, topic: str, offset: int) -> None:
        place = Place("never was", offset, offset)
        self._start(Client("alice", {topic: place}), {topic: Since(place.epoch, place.offset)})

    @precondition(lambda self: self.clients)
    @rule(which=st.integers(0, 5), topic=st.sampled_from(TOPICS))
    def subscribe_again(self, which: int, topic: str) -> None:
        client = self.clients[which % len(self.clients)]
        if client.coming is None or client.coming.done():
            place = client.places.get(topic)
            self._come(client, {topic: Since(place.epoch, place.offset) if place else None})

    # --- What holds -------------------------------------------------------------------------------

    @invariant()
    def nothing_failed(self) -> None:
        for failure in self.failures:
            raise failure

    @invariant()
    def the_hub_keeps_only_what_somebody_wants(self) -> None:
        wanted = {name for client in self.clients for name in client.topics}
        assert set(self.hub.names()) == wanted == self.membership.wanted

    def teardown(self) -> None:
        try:
            self._settle()
            for client in self.clients:
                for name, place in client.places.items():
                    if name in client.topics:
                        assert place.got == self._owed(client, name, place)
            for client in self.clients:
                self._leave(client)
            assert self.hub.names() == []
            for task in self.background:
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0.001))
            assert asyncio.all_tasks(self.loop) == set()
            self.nothing_failed()
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
            asyncio.set_event_loop(None)
            self.loop.close()

    def _settle(self) -> None:
        """All is well again, for long enough that everything is repaired and everybody is back."""
        self.log.down, self.log.seconds, self.membership.seconds, self.bus_is_up = False, 0.0, 0.0, True
        self.flying.clear()
        self.loop.run_until_complete(asyncio.sleep(2))
        for _ in range(3):  # A reset may come in between, and send somebody away once more.
            while self.gone:
                self._resume(self.gone.pop())
            self.loop.run_until_complete(asyncio.sleep(CHECK_SECONDS))
        assert not self.gone, "everybody can stay now"
        reads = self.log.reads
        self.loop.run_until_complete(asyncio.sleep(2 * CHECK_SECONDS))
        assert self.log.reads == reads, "it reads on and on"

    def _owed(self, client: Client, topic: str, place: Place) -> list[int]:
        """What the client must have got: all that it may see, but what has gone meanwhile it may have or not."""
        stored = self.log.topics.get(topic)
        if stored is None:
            return []
        assert (place.epoch, place.offset <= stored.head) == (stored.epoch, True)
        owed = []
        for offset in range(place.began + 1, stored.head + 1):
            event = self.everything[topic, offset]
            expired = event.expires_at is not None and event.expires_at <= self.loop.now
            gone = expired or (topic, offset) in self.recalled
            if client.user in event.exclude:
                continue
            if not gone or offset in place.got:
                owed.append(offset)
        return owed

    # --- How it is done ---------------------------------------------------------------------------

    def _bring(self, events: list[Event]) -> None:
        if events[0].topic in self.membership.joined and self.bus_is_up:
            self._do(self.hub.receive, events[0].topic, events)

    def _start(self, client: Client, wants: dict[str, Since | None]) -> None:
        self.clients.append(client)
        self._come(client, wants)

    def _resume(self, client: Client) -> None:
        back = Client(client.user or "", client.places)
        self._start(back, {name: Since(p.epoch, p.offset) for name, p in back.places.items()} or {TOPICS[0]: None})

    def _come(self, client: Client, wants: dict[str, Since | None]) -> None:
        client.coming = self.loop.create_task(self._subscribe(client, wants))
        self.loop.run_until_complete(asyncio.sleep(0))

    async def _subscribe(self, client: Client, wants: dict[str, Since | None]) -> None:
        """What the consumer does."""
        try:
            found = await self.hub.subscribe(client, wants)
        except ConnectionError:
            client.close(CloseCode.UNAVAILABLE, "")
        else:
            fresh = {one.topic: {"epoch": one.epoch, "offset": one.offset} for one in found if not wants[one.topic]}
            if fresh:
                client.send(protocol.welcome("c", client.user, fresh))
            for one in found:
                if wants[one.topic]:
                    said = protocol.subscribed(one.topic, one.epoch, one.offset, one.recovered)
                    client.send(*(event.body for event in one.missed), said)
            self.hub.go_live(client, found)
        if client.closed:
            self.clients.remove(client)
            self._end(client)
            self.gone.append(client)
            client.coming = None

    def _leave(self, client: Client) -> None:
        if client.coming:
            client.coming.cancel()
            self.loop.run_until_complete(asyncio.sleep(0))
        self._do(self._end, client)

    def _end(self, client: Client) -> None:
        client.closed = True
        self.hub.leave(client)

    def _do(self, function: Callable[..., object], *arguments: Any) -> None:
        """Calls a function in the loop."""

        async def main() -> None:
            function(*arguments)

        self.loop.run_until_complete(main())

    async def _check(self, names: list[str], *, doubt: bool = False) -> None:
        with suppress(ConnectionError):
            await self.hub.check(names, doubt=doubt)

    async def _check_positions(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            await self._check(self.hub.names())

    async def _check_fresh(self) -> None:
        while True:
            await asyncio.sleep(FRESH_SECONDS)
            fresh, self.fresh = self.fresh, []
            await self._check(fresh)


def _cause(context: dict[str, Any]) -> BaseException:
    return context.get("exception") or RuntimeError(context["message"])


@contextmanager
def small_bounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:

        class Clock:
            @staticmethod
            def time() -> float:
                return asyncio.get_event_loop().time()

        patch.setattr(fanout, "time", Clock)
        for name, value in SMALL.items():
            patch.setattr(local_topic, name, value)
        yield


RUN = settings(
    max_examples=250,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # Shrinking takes minutes; leave this out to look for the cause of a failure.
    report_multiple_bugs=False,
)


def test_every_client_gets_every_message_once_and_in_order_or_is_told() -> None:
    with small_bounds():
        run_state_machine_as_test(World, settings=RUN)


# --- Could the model fail? ------------------------------------------------------------------------


class WithoutRepair(LocalTopic):
    def start_repair(self) -> None:
        pass


class SkipsGaps(LocalTopic):
    """Takes what comes as if nothing could be missing."""

    def _wait_for_order(self) -> None:
        if self.ahead:
            self.position = min(self.ahead) - 1
            asyncio.get_running_loop().call_soon(self._advance, (), self.position)


class NeverResets(LocalTopic):
    def _reset(self, page: Page) -> None:
        self.epoch, self.position, self.head = page.epoch, page.head, page.head


class KeepsQuietAboutEpochs(LocalTopic):
    def _name_epoch(self, epoch: str | None) -> None:
        self.epoch = epoch


class GoesLiveTooEarly(LocalTopic):
    """Compares with the topic's position no more once the log has been read."""

    def _settle(self, connection: Connection, catch_up: CatchUp) -> None:
        self.catching_up.pop(connection, None)
        self.live[connection] = None


class ForgetsHeldEvents(LocalTopic):
    def go_live(self, connection: Connection, at: Since) -> bool:
        if catch_up := self.catching_up.get(connection):
            catch_up.held.clear()
        return super().go_live(connection, at)


class RecoversTooMuch(Hub):
    """Promises the oldest that was missed without looking whether retention has kept it."""

    async def _find_in_log(self, topic: LocalTopic, connection: Connection, since: Since) -> Subscription:
        found = await super()._find_in_log(topic, connection, since)
        if found.epoch == since.epoch and not found.recovered:
            return Subscription(found.topic, found.epoch, max(found.offset, since.offset), recovered=True)
        return found


MUTANTS: list[type[Hub | LocalTopic]] = [
    WithoutRepair,
    SkipsGaps,
    NeverResets,
    KeepsQuietAboutEpochs,
    GoesLiveTooEarly,
    ForgetsHeldEvents,
    RecoversTooMuch,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_model_finds_a_planted_bug(monkeypatch: pytest.MonkeyPatch, mutant: type[Hub | LocalTopic]) -> None:
    monkeypatch.setattr(hub_module, mutant.__bases__[0].__name__, mutant)
    with small_bounds(), pytest.raises(AssertionError):
        run_state_machine_as_test(World, settings=settings(RUN, print_blob=False, max_examples=2000))
