"""Receiving against a naive model of a queue: whatever is sent, received, settled and waited for, it is the model's.

The model copies each message into a queue of each session, as SQS would, and knows neither offsets nor states.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
import time_machine
from django.db import transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from notifications import history
from notifications.models import Message
from sessions_app import offering
from sessions_app.receiving import Handed, Receive, serve
from tests.sessions_app.receivers import open_one, send, settle

pytestmark = pytest.mark.django_db

START = datetime(2026, 6, 1, tzinfo=UTC)
RETENTION = 120
LENT_MAX = 6
USERS = {"a1": "alice", "a2": "alice", "b1": "bob"}  # Of sessions; both are of account acme.
TOPICS = ["session.a1", "user.alice", "user.bob", "account.acme", "all", "user.carol"]


@dataclass(slots=True)
class Copy:
    """A message in the queue of one session."""

    id: str
    sent_at: float
    expires_at: float
    visible_at: float = 0.0
    receipt: str = ""


@dataclass(slots=True)
class Queue:
    copies: list[Copy] = field(default_factory=list)
    old_receipts: list[str] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    clock: ClassVar[Any]

    @initialize()
    def begin(self) -> None:
        self.now, self.recalled = 0.0, set[str]()
        self.queues = {session: Queue() for session in USERS}
        for session, user in USERS.items():
            open_one(user, "acme", session, RETENTION)

    @rule(
        topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=8),
        ttl=st.sampled_from([None, None, 20]),
        excluded=st.sampled_from(["", "", "alice"]),
    )
    def send(self, topics: list[str], ttl: int | None, excluded: str) -> None:
        for topic in topics:
            self.wait(0.001)
            (id,) = send(topic, ttl=ttl, exclude_users=frozenset([excluded] if excluded else []))
            for session, user in USERS.items():
                if user != excluded and topic in (f"session.{session}", f"user.{user}", "account.acme", "all"):
                    self.queues[session].copies.append(Copy(id, self.now, self.now + (ttl or 10**6)))

    @rule(session=st.sampled_from(sorted(USERS)), most=st.integers(1, 10), visibility=st.integers(5, 40))
    def receive(self, session: str, most: int, visibility: int) -> None:
        (handed,) = serve([Receive(session, most, visibility)])
        assert isinstance(handed, Handed)
        assert not handed.more
        self.check(session, most, visibility, handed)

    @rule(session=st.sampled_from(sorted(USERS)), mosts=st.lists(st.integers(1, 5), min_size=2, max_size=3))
    def receive_at_once(self, session: str, mosts: list[int]) -> None:
        for most, handed in zip(mosts, serve([Receive(session, most, 30) for most in mosts]), strict=True):
            assert isinstance(handed, Handed)
            self.check(session, most, 30, handed)

    def check(self, session: str, most: int, visibility: int, handed: Handed) -> None:
        queue = self.queues[session]
        queue.copies = [copy for copy in queue.copies if self.is_there(copy)]
        expected: list[Copy] = []
        room = LENT_MAX - sum(bool(copy.receipt) for copy in queue.copies)
        for copy in queue.copies:
            if copy.visible_at <= self.now and len(expected) < most and (copy.receipt or room > 0):
                room -= not copy.receipt
                expected.append(copy)
        assert [message.messageId for message in handed.messages] == [copy.id for copy in expected]
        for copy, message in zip(expected, handed.messages, strict=True):
            queue.old_receipts += [copy.receipt] if copy.receipt else []
            copy.receipt, copy.visible_at = message.receipt, self.now + visibility

    def is_there(self, copy: Copy) -> bool:
        if copy.receipt and copy.visible_at > self.now:
            return True  # It is out: nobody looks whether it may come again.
        return copy.id not in self.recalled and copy.expires_at > self.now and copy.sent_at > self.now - RETENTION

    @rule(session=st.sampled_from(sorted(USERS)), data=st.data(), done=st.booleans())
    def settle(self, session: str, data: st.DataObject, done: bool) -> None:
        queue = self.queues[session]
        lent = [copy.receipt for copy in queue.copies if copy.receipt]
        receipts = data.draw(st.lists(st.sampled_from([*lent, *queue.old_receipts[-5:], "nonsense"]), max_size=6))
        held = [receipt for receipt in dict.fromkeys(receipts) if receipt in lent]
        assert settle(session, *receipts, done=done) == held
        for copy in list(queue.copies):
            if copy.receipt in held and done:
                queue.copies.remove(copy)
            elif copy.receipt in held:
                copy.visible_at = 0.0

    @precondition(lambda self: any(queue.copies for queue in self.queues.values()))
    @rule(data=st.data())
    def recall(self, data: st.DataObject) -> None:
        ids = sorted({copy.id for queue in self.queues.values() for copy in queue.copies})
        id = data.draw(st.sampled_from(ids))
        history.recall(Message.objects.filter(pk=id))
        self.recalled.add(id)

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 31.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.clock.shift(seconds)


def test_receiving_is_the_model_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offering, "LENT_MAX", LENT_MAX)

    class InTime(Machine):
        def __init__(self) -> None:
            self.undo = transaction.atomic()
            self.undo.__enter__()
            self.travel = time_machine.travel(START, tick=False)
            type(self).clock = self.travel.start()
            super().__init__()

        def teardown(self) -> None:
            self.travel.stop()
            transaction.set_rollback(True)
            self.undo.__exit__(None, None, None)

    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    steps = settings(max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=checks)
    run_state_machine_as_test(InTime, settings=steps)
