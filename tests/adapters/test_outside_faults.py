"""Deliveries while something breaks, with real processes: nothing is lost, and what comes again has the same id.

The truth is what the API has accepted: docs/reliability.md says what is shown here, and what was measured.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from adapters.delivering import LINGER_SECONDS
from tests.adapters.outside import LATE_SECONDS, TAKE, House, Route, Shop, take_late
from tests.adapters.receivers import Answer, cut, status
from tests.servers import Stack

pytestmark = pytest.mark.any_database

LEASE_SECONDS = 2.0
DELAY_MAX = 2.5
ANSWER_MAX = 2.0
SETTINGS = {"WEBHOOK_NETWORKS": "127.0.0.0/8", "DELIVERY_TIMEOUT": "2", "REDRIVES_PER_SECOND": "150"}

MakeRoute = Callable[[str], Route]


@pytest.fixture(scope="module")
def staffed() -> Iterator[House]:
    short = TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"])
    with short as folder, Stack(Path(folder) / "outside", **SETTINGS) as stack:
        house = House(stack)
        with house.http:
            yield house


@pytest.fixture
def house(staffed: House) -> House:
    staffed.employ()
    return staffed


@pytest.fixture
def route(staffed: House) -> Iterator[MakeRoute]:
    """Makes destinations with a receiver each."""
    with ExitStack() as open:
        yield lambda name: Route(staffed, name, open.enter_context(Shop()))


def note(text: str) -> None:
    """Shown by `pytest -s`; docs/reliability.md has the numbers of a run."""
    print(f"\n    {text}", flush=True)


def test_what_a_destination_missed_while_it_was_down_arrives_when_it_is_up(house: House, route: MakeRoute) -> None:
    crm = route("down")
    first = crm.accept(3)
    crm.eventually(lambda: crm.taken(first))
    with crm.shop.closed():
        missed = crm.accept(40)
        crm.eventually(lambda: crm.shown()["failures"] >= 10)
        shown = crm.shown()
        assert shown["paused_until"]  # The breaker is open.
        assert "cannot connect" in shown["last_error"]
        crm.assert_conserved()
        crm.shop.behave = lambda id, times: take_late if len(crm.shop.came) == 4 else TAKE
    seconds = crm.eventually(lambda: crm.taken(missed), 15)
    note(f"down: all 40 arrived {seconds:.1f} s after the port was open again, {crm.repeated()} twice")
    crm.assert_all_arrived()
    probe, next_one = (at for _id, at in crm.shop.came[3:5])
    assert next_one - probe >= LATE_SECONDS  # One alone, and the others when it was taken.
    shown = crm.shown()
    assert (shown["failures"], shown["paused_until"], shown["last_error"]) == (0, None, "")


def test_a_slow_destination_does_not_delay_another(house: House, route: MakeRoute) -> None:
    slow, fast = route("slow"), route("fast")
    slow.shop.behave = lambda _id, _times: take_late
    before = fast.delay(fast.trickle(60))
    slow.accept(400)
    slow.eventually(lambda: len(slow.shop.came) > 0)
    beside = fast.trickle(60)
    assert slow.assert_conserved()["pending"] > 0  # It had to do all the time.
    after = fast.delay(beside)
    note(f"slow: p95 of the other one {before * 1000:.0f} ms before, {after * 1000:.0f} ms beside it")
    assert after < max(3 * before, DELAY_MAX)
    slow.shop.behave = lambda _id, _times: TAKE
    fast.assert_all_arrived()
    slow.assert_all_arrived()


def test_a_destination_that_asks_for_time_gets_it(house: House, route: MakeRoute) -> None:
    crm = route("busy")
    asked: list[float] = []

    def behave(_id: str, _times: int) -> Answer:
        if asked and time.monotonic() >= asked[0] + 2:
            return TAKE
        asked.append(time.monotonic())
        return status(429, Retry_After="2")

    crm.shop.behave = behave
    ids = crm.accept(30)
    crm.eventually(lambda: crm.taken(ids), 15)
    assert len(asked) <= 16  # What was under way together; the others were not even tried.
    assert asked[-1] - asked[0] < 1
    taken_first = min(at for _id, at in crm.shop.came if at > asked[-1])
    note(f"429: {len(asked)} were refused, the next came {taken_first - asked[0]:.1f} s later (asked for: 2)")
    assert taken_first - asked[0] >= 2
    crm.assert_all_arrived()


def test_a_destination_that_refuses_us_leaves_dead_letters_and_gets_them_when_it_is_mended(
    house: House, route: MakeRoute
) -> None:
    crm = route("refusing")
    crm.shop.behave = lambda _id, _times: status(401, b"who are you?")
    crm.accept(40)
    crm.eventually(lambda: len(crm.rows("dead")) >= 10)
    time.sleep(0.5)
    dead = crm.rows("dead")
    assert len(dead) <= 13  # The breaker keeps the others from the same end.
    assert {(row["attempts"], row["response"]) for row in dead} == {(1, "401 who are you?")}
    assert all("another secret" in row["error"] for row in dead)
    crm.assert_conserved()
    crm.shop.behave = lambda _id, _times: TAKE
    crm.mended()
    crm.eventually(lambda: len(crm.shop.taken) == 40 - len(crm.rows("dead")))
    dead = crm.rows("dead")
    assert crm.redrive() == len(dead)
    crm.assert_all_arrived()
    assert crm.repeated() == 0


def test_of_a_batch_that_half_fails_only_that_half_comes_again(house: House, route: MakeRoute) -> None:
    crm = route("half")
    ids = crm.accept(40)
    failing = set(ids[::2])
    crm.shop.behave = lambda id, times: status(503) if id in failing and times == 1 else TAKE
    seconds = crm.eventually(lambda: crm.taken(ids))
    note(f"half a batch: all arrived after {seconds:.1f} s")
    crm.assert_all_arrived()
    assert crm.shop.times() == Counter({id: 2 if id in failing else 1 for id in ids})


def test_what_a_broken_connection_leaves_unanswered_comes_again_with_its_id(house: House, route: MakeRoute) -> None:
    crm = route("cut")
    unanswered: set[str] = set()

    def behave(id: str, times: int) -> Answer:
        if times > 1 or len(crm.shop.came) % 3:
            return TAKE
        unanswered.add(id)
        return cut

    crm.shop.behave = behave
    ids = crm.accept(60)
    crm.eventually(lambda: crm.taken(ids))
    crm.assert_all_arrived()
    assert unanswered
    assert crm.shop.times() == Counter({id: 2 if id in unanswered else 1 for id in ids})


def test_a_poisoned_event_holds_up_no_other(house: House, route: MakeRoute) -> None:
    crm, other = route("poisoned"), route("beside")
    ids = crm.accept(30)
    poison = ids[10]
    crm.shop.behave = lambda id, _times: status(400, b"what is this?") if id == poison else TAKE
    beside = other.trickle(20)
    assert other.delay(beside) < DELAY_MAX
    crm.assert_all_arrived(but=[poison])
    [row] = crm.rows("dead")
    assert (row["attempts"], row["error"], row["response"]) == (1, "HTTP status 400", "400 what is this?")
    assert crm.redrive() == 1
    crm.eventually(lambda: crm.shop.times()[poison] == 2)
    crm.assert_all_arrived(but=[poison])
    other.assert_all_arrived()


def test_a_thousand_dead_letters_are_sent_again_beside_new_events(house: House, route: MakeRoute) -> None:
    crm = route("redriven")
    before = crm.delay(crm.trickle(40))
    with crm.shop.closed():
        dead = crm.accept(1000)
        crm.eventually(lambda: crm.shown()["failures"] >= 10)
        give_up = "from adapters import deliveries; from adapters.models import Delivery"
        house.stack.python(f"{give_up}\ndeliveries.give_up(Delivery.objects.filter(destination='{crm.id}'))")
        assert crm.assert_conserved()["dead"] == 1000
    crm.mended()
    began = time.monotonic()
    assert crm.redrive() == 1000
    assert crm.redrive() == 0
    new = crm.trickle(40)
    assert not crm.taken(dead)
    crm.assert_conserved()
    after = crm.delay(new)
    crm.eventually(lambda: crm.taken(dead))
    seconds = time.monotonic() - began
    note(f"redrive: 1000 in {seconds:.1f} s; p95 of new ones {before * 1000:.0f} ms before, {after * 1000:.0f} beside")
    assert seconds >= 6  # 150 a second.
    assert after < max(3 * before, DELAY_MAX)
    crm.assert_all_arrived()
    assert crm.repeated() == 0


def test_a_stopped_broker_loses_nothing_and_delivering_goes_on_afterwards(house: House, route: MakeRoute) -> None:
    crm = route("broker")
    time.sleep(LINGER_SECONDS + 0.5)  # A run that goes on needs no broker.
    slowest = 0.0
    with house.stack.valkey.stopped():
        until = time.monotonic() + 3
        while time.monotonic() < until:
            began = time.monotonic()
            crm.accept()
            slowest = max(slowest, time.monotonic() - began)
            time.sleep(0.1)
        at_once = len(crm.shop.taken)
    assert at_once < len(crm.accepted)
    assert slowest < ANSWER_MAX
    missed = len(crm.accepted)
    seconds = crm.eventually(lambda: crm.taken([*crm.accepted]))
    note(f"broker: {missed} accepted ({slowest:.2f} s at most), {at_once} out at once, the rest {seconds:.1f} s after")
    crm.assert_all_arrived()


@pytest.mark.parametrize(
    ("place", "who", "batch"),
    [("claimed", "process", 10), ("sent", "process", 10), ("marked", "process", 10), ("sent", "group", 80)],
)
def test_a_worker_that_dies_over_a_batch_costs_repetitions_only(
    staffed: House, route: MakeRoute, place: str, who: str, batch: int
) -> None:
    file = staffed.stack.folder / "crash"
    app = "tests.adapters.dying"
    staffed.employ(app=app, FANFARE_CRASH_FILE=str(file), FANFARE_LEASE_SECONDS=str(LEASE_SECONDS))
    crm = route(f"{place}-{who}")
    warm = crm.accept(30)
    crm.eventually(lambda: crm.taken(warm))
    file.write_text(f"{place} {who} {batch}")
    ids = crm.accept(300)
    crm.eventually(lambda: not file.exists())
    began = time.monotonic()
    crm.assert_conserved()
    if who == "group":
        staffed.employ()
    crm.eventually(lambda: crm.taken(ids), LEASE_SECONDS + 20)
    seconds = time.monotonic() - began
    note(f"killed {who} ({place}): all arrived {seconds:.1f} s later, {crm.repeated()} twice")
    crm.assert_all_arrived()
    assert crm.repeated() == (batch if place == "sent" else 0)
    assert max(crm.shop.taken.values()) <= 2


def test_two_workers_and_two_beats_send_nothing_twice(staffed: House, route: MakeRoute) -> None:
    staffed.employ(workers=2, beats=2)
    some = [route(f"twice{number}") for number in range(3)]
    for _ in range(10):
        for one in some:
            one.accept(20)
            one.accept()
        time.sleep(0.1)
    for one in some:
        one.assert_all_arrived()
        assert one.repeated() == 0
        assert set(one.shop.times().values()) == {1}
