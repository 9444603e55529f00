"""Whatever happens, in whatever order: nobody goes OFFLINE who is there, and nobody stays ONLINE who is not."""

import json
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from django.conf import LazySettings
from django.utils import timezone
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from adapters import outbox
from adapters.models import Delivery, Destination
from presence import registry, sweeping, tracker
from presence.models import Presence, Transition
from presence.transitions import settle
from realtime.observing import Reason
from realtime.redis_scripts import RedisDown
from tests.presence.processes import Process
from tests.presence.redis import TestRedis

pytestmark = pytest.mark.django_db(transaction=True)

LEASE, GRACE, STEP = 15.0, 10.0, 5.0
USERS = ["ada", "bob", "eve"]
users = st.sampled_from(USERS)
some = st.integers(0, 5)


class Down:
    """Stands between the registry and Redis, which can be away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.away, self._run = False, registry.script
        monkeypatch.setattr(registry, "script", self)

    def __call__(self, *args: Any) -> Any:
        if self.away:
            raise RedisDown
        return self._run(*args)


class Clock:
    """The process's clock, which may be wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shift = 0.0
        there, now = time.time, timezone.now
        monkeypatch.setattr(time, "time", lambda: there() + self.shift)
        monkeypatch.setattr(timezone, "now", lambda: now() + timedelta(seconds=self.shift))


class World(RuleBasedStateMachine):
    """Two web processes and their successors, a beat that may pause, three users. Time passes in steps of a renewal."""

    redis: TestRedis
    down: Down
    clock: Clock

    def __init__(self) -> None:
        super().__init__()
        self.redis.empty()
        Presence.objects.all().delete()
        Transition.objects.all().delete()
        Delivery.objects.all().delete()
        self.down.away, self.clock.shift = False, 0.0
        self.processes = [Process(), Process()]
        self.asleep: dict[Process, float] = {}  # Those who stand still, and for how long.
        self.seen: dict[str, str] = {}

    # --- What may happen --------------------------------------------------------------------------

    @rule(which=some, user=users, told=st.booleans())
    def come(self, which: int, user: str, told: bool) -> None:
        process = self._awake(which)
        process.come(user)
        if told:
            self._tell(process)

    @rule(which=some, reason=st.sampled_from(list(Reason)), told=st.booleans())
    def go(self, which: int, reason: Reason, told: bool) -> None:
        process = self._awake(which)
        if process.open:
            process.go(process.open[which % len(process.open)], reason)
            if told:
                self._tell(process)

    @rule(which=some, user=users, twice=st.booleans())
    def come_and_die_before_it_is_settled(self, which: int, user: str, twice: bool) -> None:
        process = self._awake(which)
        process.come(user)
        with suppress(RedisDown):
            tracker._register(process.tracker._boot, process.tracker._number + 1, list(process.tracker._news.values()))
        self._replace(process)
        if twice:
            self.come(which + 1, user, told=True)

    @rule(which=some)
    def die(self, which: int) -> None:
        self._replace(self._awake(which))

    @rule(which=some)
    def stop(self, which: int) -> None:
        process = self._awake(which)
        for connection in list(process.open):
            process.go(connection, Reason.RESTART)
        process.run(process.tracker.stop)
        self._replace(process)

    @rule(which=some)
    def fall_asleep(self, which: int) -> None:
        if len(self.asleep) < len(self.processes) - 1:
            self.asleep.setdefault(self._awake(which), 0.0)

    @rule()
    def wake_up(self) -> None:
        self.asleep.clear()

    @rule(steps=st.integers(1, 6), beating=st.booleans())
    def wait(self, steps: int, beating: bool) -> None:
        for _ in range(steps):
            self._tick(STEP)
            if beating:
                self.sweep()

    @rule()
    def sweep(self) -> None:
        with suppress(RedisDown):
            sweeping.sweep(5)

    @rule(user=users)
    def settle_somebody(self, user: str) -> None:
        with suppress(RedisDown):
            settle([user])

    @rule(user=users)
    def hide_or_show(self, user: str) -> None:
        row = Presence.objects.filter(pk=user).first()
        if row and not self.down.away:
            row.availability = "available" if row.availability == "invisible" else "invisible"
            row.save(update_fields=["availability"])
            settle([user])

    @rule()
    def lose_redis(self) -> None:
        self.redis.empty()

    @rule(which=some, reason=st.sampled_from(list(Reason)), user=users)
    def lose_redis_just_before_one_of_two_leaves(self, which: int, reason: Reason, user: str) -> None:
        process = self._awake(which)
        connection = process.come(user)
        self.come(which + 1, user, told=True)
        self._tell(process)
        self.redis.empty()
        process.go(connection, reason)
        self._tell(process)

    @rule(away=st.booleans())
    def redis_goes_or_comes(self, away: bool) -> None:
        self.down.away = away

    @rule(seconds=st.sampled_from([6.0, 9.0, 20.0]))
    def redis_is_away_for_a_while(self, seconds: float) -> None:
        """And the sweep is the first who speaks to it again."""
        self.down.away = True
        while seconds > 0:
            self._tick(min(seconds, STEP))
            seconds -= STEP
        self.down.away = False
        self.sweep()

    @rule(shift=st.sampled_from([0.0, 7200.0, -7200.0, 61.0, -61.0]))
    def clock_jumps(self, shift: float) -> None:
        self.clock.shift = shift

    # --- What holds -------------------------------------------------------------------------------

    @invariant()
    def nobody_goes_offline_who_is_there(self) -> None:
        rows = {row.user: row for row in Presence.objects.all()}
        now = {user: row.status for user, row in rows.items()}
        for user, status in now.items():
            if status == "OFFLINE" and self.seen.get(user) == "ONLINE":
                event("went offline")
                assert rows[user].availability == "invisible" or user not in self._surely_there(), user
        self.seen = now

    def teardown(self) -> None:
        try:
            self._come_to_rest()
            self._check()
        finally:
            for process in self.processes:
                process.kill()

    def _come_to_rest(self) -> None:
        self.down.away = False
        self.asleep.clear()
        for _ in range(12):
            self._tick(STEP)
            self.sweep()

    def _check(self) -> None:
        there = {connection.user for process in self.processes for connection in process.open}
        hidden = set(Presence.objects.filter(availability="invisible").values_list("pk", flat=True))
        online = set(Presence.objects.filter(status="ONLINE").values_list("pk", flat=True))
        assert online == there - hidden
        for user in USERS:
            self._check_history(user)
        assert {user for user, count in registry.counts(USERS).items() if count} == there
        assert not registry.script("return redis.call('ZCARD', 'fanfare:presence:due')", [])

    def _check_history(self, user: str) -> None:
        rows = list(Transition.objects.filter(user=user).order_by("seq"))
        row = Presence.objects.filter(pk=user).first()
        assert [one.seq for one in rows] == list(range(1, len(rows) + 1))
        assert [one.status for one in rows] == [("ONLINE", "OFFLINE")[turn % 2] for turn in range(len(rows))]
        assert (row.seq, row.status) == (rows[-1].seq, rows[-1].status) if rows and row else not rows
        owed = [json.loads(one.body)["data"] for one in Delivery.objects.filter(key=f"user.{user}").order_by("id")]
        assert [(one["seq"], one["message"]["status"], one["reason"]) for one in owed] == [
            (one.seq, one.status, one.reason) for one in rows
        ]

    # --- How --------------------------------------------------------------------------------------

    def _awake(self, which: int) -> Process:
        able = [process for process in self.processes if process not in self.asleep]
        return able[which % len(able)]

    def _surely_there(self) -> set[str | None]:
        """Whose connections Redis was told of by processes that have kept their leases."""
        found = set()
        for process in self.processes:
            if self.asleep.get(process, 0.0) < LEASE - STEP:
                untold = process.tracker._news
                found |= {connection.user for connection in process.open if connection.id not in untold}
        return found

    def _replace(self, process: Process) -> None:
        process.kill()
        self.processes[self.processes.index(process)] = Process()

    def _tell(self, process: Process) -> None:
        with suppress(RedisDown):
            process.flush()

    def _tick(self, seconds: float) -> None:
        before = self.redis.since
        self.redis.wait(seconds, silent=True)
        for process in self.processes:
            if before and process.tracker._since == before:
                process.tracker._since = self.redis.since
            if process in self.asleep:
                self.asleep[process] += seconds
            else:
                with suppress(RedisDown):
                    process.renew()
                self._tell(process)


@pytest.fixture
def world(redis: TestRedis, monkeypatch: pytest.MonkeyPatch, settings: LazySettings) -> type[World]:
    settings.PRESENCE_LEASE, settings.PRESENCE_GRACE, settings.PRESENCE_RESTART_GRACE = LEASE, GRACE, 2 * GRACE
    Destination.objects.create(name="crm", kind="table", events=["presence"])
    outbox.forget_wants()

    class Here(World):
        pass

    monkeypatch.setattr(tracker, "GONE_MAX", 3)
    Here.redis, Here.down, Here.clock = redis, Down(monkeypatch), Clock(monkeypatch)
    return Here


def check(world: type[World], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        world,
        settings=settings(
            max_examples=examples,
            phases=[Phase.generate, Phase.shrink],
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_presence_comes_right_after_whatever_happens(world: type[World]) -> None:
    check(world, 25, 20)


def test_presence_comes_right_without_a_grace(world: type[World], settings: LazySettings) -> None:
    settings.PRESENCE_GRACE = settings.PRESENCE_RESTART_GRACE = 0.0
    check(world, 15, 20)
