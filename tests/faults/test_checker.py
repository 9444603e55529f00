"""The checker is checked: a run without fault passes, and each planted fault is found, by its invariant."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import msgspec
import pytest

from tests.faults.checker import MIB, Limits, Run, check, heal_seconds, summary
from tests.faults.ledger import At, Client, Closed, Got, History, Ledger, Line, Opened, Recall, Reply, Row, Sample, Send

TOPIC, OTHER = "topic.a", "topic.b"
MESSAGES = 6
L = TypeVar("L", bound=Line)


def good_run() -> Run:
    """Two clients of one topic, six messages; bob comes back once in between."""
    ledger = Ledger(clients={name: Client(name, frozenset({TOPIC})) for name in ("alice", "bob")})
    for name in ledger.clients:
        ledger.add(Opened(name, 1, 0.0))
        ledger.add(At(name, TOPIC, "e", 0, "start", 0.0))
    history = History(heads={TOPIC: ("e", MESSAGES)})
    for n in range(1, MESSAGES + 1):
        at = float(n)
        ledger.add(Send(f"k{n}", TOPIC, at))
        ledger.add(Reply(f"k{n}", at, at + 0.1, "ok", 202, False, f"id{n}", "e", n))
        if n == 4:
            ledger.add(Closed("bob", 1, at, 1006, meant=True))
            ledger.add(Opened("bob", 2, at))
        for name in ledger.clients:
            ledger.add(Got(name, 2 if name == "bob" and n >= 4 else 1, TOPIC, "e", n, f"id{n}", f"k{n}", at + 0.2))
        history.rows.append(Row(f"id{n}", TOPIC, n, f"k{n}", at + 0.05))
    ledger.add(Sample(1, 100 * MIB, 50, 1.0))
    sample = Sample(1, 100 * MIB, 50, 7.0)
    return Run(ledger, history, Limits(), (2.0, 3.0), {1: sample}, {1: sample}, {"requests": 0})


def one(run: Run, kind: type[L], **has: Any) -> int:
    """Where the first line of this kind is."""
    return next(
        index
        for index, line in enumerate(run.ledger.lines)
        if isinstance(line, kind) and all(getattr(line, name) == value for name, value in has.items())
    )


def change(run: Run, index: int, **to: Any) -> None:
    run.ledger.lines[index] = msgspec.structs.replace(run.ledger.lines[index], **to)


def change_row(run: Run, number: int, **to: Any) -> None:
    run.history.rows[number - 1] = replace(run.history.rows[number - 1], **to)


def test_a_good_run_breaks_nothing() -> None:
    run = good_run()
    assert check(run) == []
    found = summary(run, [])
    assert (found.accepted, found.lost, found.duplicated, found.reordered, found.indeterminate) == (6, 0, 0, 0, 0)
    assert found.p50 == pytest.approx(0.15)


# --- Planted faults, each with the invariant that finds it ----------------------------------------


def accepted_and_lost(run: Run) -> None:
    """I1 accepted and not in the log"""
    change(run, one(run, Reply, key="k6"), key="k7", id="id7", offset=7)
    change(run, one(run, Send, key="k6"), key="k7")
    run.history.rows[-1] = replace(run.history.rows[-1], key="k6")


def another_id_than_was_said(run: Run) -> None:
    """I1 the log has another than the reply said"""
    change(run, one(run, Reply, key="k2"), id="id9")


def a_repetition_with_another_reply(run: Run) -> None:
    """I1 one key, two replies"""
    run.ledger.add(Reply("k2", 9.0, 9.1, "ok", 202, False, "id9", "e", 9))


def refused_and_stored(run: Run) -> None:
    """I2 refused and in the log"""
    change(run, one(run, Reply, key="k3"), outcome="fail", status=403)


def a_phantom(run: Run) -> None:
    """I2 in the log, and nobody sent it"""
    run.history.rows.append(Row("id7", TOPIC, 7, "k7", 7.0))
    run.history.heads[TOPIC] = ("e", 7)


def stored_twice(run: Run) -> None:
    """I2 twice in the log"""
    run.history.rows.append(Row("id7", TOPIC, 7, "k6", 7.0))
    run.history.heads[TOPIC] = ("e", 7)


def a_gap_in_the_offsets(run: Run) -> None:
    """I3 no message has this offset"""
    run.history.heads[TOPIC] = ("e", 7)


def an_offset_twice(run: Run) -> None:
    """I3 an offset twice, or beyond the head"""
    change_row(run, 5, offset=4)


def commits_out_of_order(run: Run) -> None:
    """I3 time runs against the offsets"""
    change_row(run, 5, created_at=3.0)


def stored_before_what_was_accepted_earlier(run: Run) -> None:
    """I3 asked for later, and before it"""
    change(run, one(run, Reply, key="k5"), offset=2)


def lost_by_one_client(run: Run) -> None:
    """I4 lost"""
    del run.ledger.lines[one(run, Got, client="bob", offset=3)]


def lost_at_the_end(run: Run) -> None:
    """I4 lost"""
    del run.ledger.lines[one(run, Got, client="alice", offset=6)]


def lost_over_a_reconnect(run: Run) -> None:
    """I4 lost"""
    index = one(run, Got, client="bob", offset=4)
    run.ledger.lines[index] = At("bob", TOPIC, "e", 4, "on", 4.1)  # The server says that bob is there, and bob is not.


def two_swapped(run: Run) -> None:
    """I4 out of order"""
    one_, two = one(run, Got, client="alice", offset=2), one(run, Got, client="alice", offset=3)
    lines = run.ledger.lines
    lines[one_], lines[two] = lines[two], lines[one_]


def twice_on_one_connection(run: Run) -> None:
    """I4 twice on one connection"""
    index = one(run, Got, client="alice", offset=2)
    run.ledger.lines.insert(index, run.ledger.lines[index])


def no_place_to_start_from(run: Run) -> None:
    """I4 a message before the server said where the client stands"""
    del run.ledger.lines[one(run, At, client="alice")]


def a_topic_of_others(run: Run) -> None:
    """I5 a topic that is not for this client"""
    run.ledger.add(Got("alice", 1, OTHER, "e", 1, "id1", "k1", 8.0))


def an_excluded_user(run: Run) -> None:
    """I5 a message that is not for this user"""
    change_row(run, 2, excluded=frozenset({"bob"}))


def a_message_in_the_place_of_another(run: Run) -> None:
    """I5 another message than the log has there"""
    change(run, one(run, Got, client="alice", offset=2), key="k3")


def a_recalled_message_in_the_log(run: Run) -> None:
    """I5 read from the log after it was recalled"""
    change_row(run, 2, recalled=True)
    run.ledger.lines.insert(0, Recall("id2", 0.5))
    change(run, one(run, Got, client="alice", offset=2), connection=0)


def unbounded_memory(run: Run) -> None:
    """I6 too much memory or too many files"""
    run.ledger.add(Sample(1, 900 * MIB, 50, 5.0))


def memory_that_stays(run: Run) -> None:
    """I6 memory does not come back"""
    run.after[1] = Sample(1, 300 * MIB, 50, 9.0)


def files_that_stay(run: Run) -> None:
    """I6 files do not come back"""
    run.after[1] = Sample(1, 100 * MIB, 300, 9.0)


def a_client_that_never_catches_up(run: Run) -> None:
    """I7 left over"""
    run.left["clients"] = 1


def late_for_too_long(run: Run) -> None:
    """I7 not healed in time"""
    change(run, one(run, Got, client="alice", offset=6), at=3.0 + Limits().heal_seconds + 1)


def a_request_that_hangs(run: Run) -> None:
    """I10 slow answer"""
    change(run, one(run, Reply, key="k5"), at=25.0)


def an_internal_error(run: Run) -> None:
    """I10 an internal error"""
    run.ledger.add(Reply("k6", 6.0, 6.1, "info", 500))


def later_without_saying_when(run: Run) -> None:
    """I10 no Retry-After"""
    run.ledger.add(Reply("k6", 6.0, 6.1, "info", 503))


def a_connection_that_ends_in_an_error(run: Run) -> None:
    """I10 an internal error"""
    run.ledger.add(Closed("alice", 1, 3.0, 500))


def fewer_than_were_accepted(run: Run) -> None:
    """I12 accepted is not what is stored"""
    del run.history.rows[-2:]


def heads_that_do_not_add_up(run: Run) -> None:
    """I12 the heads do not add up"""
    run.history.heads[OTHER] = ("f", 3)


PLANTED = [
    accepted_and_lost,
    another_id_than_was_said,
    a_repetition_with_another_reply,
    refused_and_stored,
    a_phantom,
    stored_twice,
    a_gap_in_the_offsets,
    an_offset_twice,
    commits_out_of_order,
    stored_before_what_was_accepted_earlier,
    lost_by_one_client,
    lost_at_the_end,
    lost_over_a_reconnect,
    two_swapped,
    twice_on_one_connection,
    no_place_to_start_from,
    a_topic_of_others,
    an_excluded_user,
    a_message_in_the_place_of_another,
    a_recalled_message_in_the_log,
    unbounded_memory,
    memory_that_stays,
    files_that_stay,
    a_client_that_never_catches_up,
    late_for_too_long,
    a_request_that_hangs,
    an_internal_error,
    later_without_saying_when,
    a_connection_that_ends_in_an_error,
    fewer_than_were_accepted,
    heads_that_do_not_add_up,
]


@pytest.mark.any_database
@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_is_found(plant: Callable[[Run], None]) -> None:
    run = good_run()
    plant(run)
    assert plant.__doc__
    invariant, _, what = plant.__doc__.partition(" ")
    assert (invariant, what) in {(violation.invariant, violation.what) for violation in check(run)}


# --- What is allowed is not found -----------------------------------------------------------------


def repeated_on_the_next_connection(run: Run) -> None:
    index = one(run, Got, client="bob", offset=4)
    run.ledger.lines.insert(index, Got("bob", 2, TOPIC, "e", 3, "id3", "k3", 4.1))


def unknown_and_stored(run: Run) -> None:
    change(run, one(run, Reply, key="k3"), outcome="info", status=0, id="", offset=None)


def unknown_then_accepted(run: Run) -> None:
    run.ledger.lines.insert(one(run, Reply, key="k3"), Reply("k3", 3.0, 3.05, "info", 0))


def hidden_and_not_delivered(run: Run) -> None:
    for offset, why in ((2, {"recalled": True}), (3, {"expires": True}), (5, {"excluded": frozenset({"alice"})})):
        change_row(run, offset, **why)
        del run.ledger.lines[one(run, Got, client="alice", offset=offset)]
    change(run, one(run, Send, key="k3"), expires=True)


def expired_and_purged(run: Run) -> None:
    change(run, one(run, Send, key="k3"), expires=True)
    del run.history.rows[2]


def loaded_from_the_log(run: Run) -> None:
    index = one(run, Got, client="bob", offset=4)
    change(run, index, connection=0)
    run.ledger.lines.insert(index, At("bob", TOPIC, "e", 4, "lost", 4.1))


def accepted_after_the_clients_had_gone(run: Run) -> None:
    run.ends = {TOPIC: MESSAGES - 1}
    for name in run.ledger.clients:
        del run.ledger.lines[one(run, Got, client=name, offset=MESSAGES)]


@pytest.mark.any_database
@pytest.mark.parametrize(
    "plant",
    [
        accepted_after_the_clients_had_gone,
        repeated_on_the_next_connection,
        unknown_and_stored,
        unknown_then_accepted,
        hidden_and_not_delivered,
        expired_and_purged,
        loaded_from_the_log,
    ],
)
def test_what_is_allowed_is_not_found(plant: Callable[[Run], None]) -> None:
    run = good_run()
    plant(run)
    assert check(run) == []


@pytest.mark.any_database
def test_the_time_to_heal_ends_with_the_last_thing_that_was_late_or_failed() -> None:
    run = good_run()
    assert heal_seconds(run) == 0
    change(run, one(run, Got, client="alice", offset=5), at=6.5)  # 1.45 s after it was accepted.
    assert heal_seconds(run) == pytest.approx(3.5)
    run.ledger.add(Reply("k6", 7.0, 8.0, "info", 0))
    assert heal_seconds(run) == pytest.approx(5.0)
