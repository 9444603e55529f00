"""What the listening core makes of frames and lost connections, without a network."""

import json
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanfare_client import FanfareError, Message
from fanfare_client.calls import Reply
from fanfare_client.events import PASSED_ON
from fanfare_client.listening import LONGEST_PAUSE, RECALLED_KEPT, ConnectAnew, Listening
from tests.clients.python.test_hostile import WELCOME, message

EVENTS = [*PASSED_ON, "welcome", "subscribed", "unsubscribed", "reset", "error", "presence", "pong", "ok"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["topic", "offset", "epoch", "id", "topics", "presences", "version", "set", "snapshot", "me", "ref"]
)


@given(event=st.sampled_from(EVENTS), fields=st.dictionaries(FIELDS, VALUES, max_size=6))
def test_no_frame_is_more_than_refused(event: str, fields: dict[str, Any]) -> None:
    core = Listening(["user.ann"], None, False)
    with suppress(FanfareError, ConnectAnew):
        list(core.receive(json.dumps(fields | {"event": event})))
    core.query()
    core.greeting()


@given(st.lists(st.integers(1, 8), max_size=40), st.sets(st.integers(0, 39)))
def test_whatever_is_repeated_and_wherever_the_line_breaks_each_message_comes_once(
    steps: list[int], breaks: set[int]
) -> None:
    """The server repeats from the position that it is given, up to a random place, again and again."""
    core = Listening(["user.ann"], None, False)
    list(core.receive(json.dumps(WELCOME)))
    got: list[Any] = []
    head = 0
    for number, step in enumerate(steps):
        head += step % 3
        at = core.positions["user.ann"]
        assert at
        since = max(0, at.offset - step)  # It may repeat more than was missed.
        for offset in range(since + 1, head + 1):
            frame = json.dumps(message(offset))
            got += [event.data for event in core.receive(frame) if isinstance(event, Message)]
        if number in breaks:
            core.closed(1006, "", "k")
            assert [json.loads(frame)["since"]["offset"] for frame in core.greeting()] == [len(got)]
    assert got == list(range(1, head + 1))


def test_a_day_of_flapping_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    core = Listening(["user.ann"], None, False)
    number, longest = 0, 0.0
    while clock[0] < 24 * 3600:
        core.query()
        core.greeting()
        list(core.receive(json.dumps(WELCOME if number == 0 else {"event": "welcome", "topics": {}})))
        for _ in range(3):
            number += 1
            list(core.receive(json.dumps(message(number))))
            list(core.receive(json.dumps({"event": "recalled", "topic": "user.ann", "id": str(number)})))
        clock[0] += 1.0
        lost = core.closed(1012, "restart", "k")
        longest = max(longest, lost.pause)
        clock[0] += lost.pause
    at = core.positions["user.ann"]
    assert at
    assert (list(core.positions), at.offset) == (["user.ann"], number)
    assert len(core._recalled) == RECALLED_KEPT
    assert LONGEST_PAUSE / 2 < longest <= LONGEST_PAUSE


def test_a_steady_connection_makes_the_next_pause_short_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    core = Listening(None, None, False)
    for _ in range(10):
        core.query()
        core.broken(OSError("nobody there"))
    core.query()
    list(core.receive(json.dumps(WELCOME)))
    clock[0] += 60
    assert core.closed(1006, "", "k").pause <= 0.5


@pytest.mark.parametrize("code", [4401, 4408, 4409, 4410, 4429, 1000, 1001, 1006, 1011, 1012])
def test_it_comes_back_after_these(code: int) -> None:
    core = Listening(None, None, False)
    assert core.closed(code, "", "k").pause >= (5 if code == 4429 else 0)
    assert core.stale_token == ("k" if code == 4401 else None)


@pytest.mark.parametrize("code", [4500, 4501, 4502, 4503, 4999])
def test_and_not_after_these(code: int) -> None:
    with pytest.raises(FanfareError) as ended:
        Listening(None, None, False).closed(code, "", "k")
    assert ended.value.status == code


@pytest.mark.parametrize(
    ("status", "back"), [(429, True), (503, True), (502, True), (400, False), (403, False), (404, False)]
)
def test_what_a_refused_handshake_means(status: int, back: bool) -> None:
    core = Listening(None, None, False)
    reply = Reply(status, {"retry-after": "99999"}, b"<html>")
    if back:
        assert core.refused(reply).pause <= 2 * LONGEST_PAUSE
    else:
        with pytest.raises(FanfareError):
            core.refused(reply)
