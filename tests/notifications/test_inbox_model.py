"""The inbox against a naive model: whatever is sent, taken back and done, page, filters and counts are the model's.

The model keeps for each message what each user did with it, in plain fields, and knows neither markers nor receipts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import pytest
import time_machine
from django.db import transaction
from django.db.models import Q
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from accounts import users
from notifications import history, preferences
from notifications.inbox import Inbox, Place
from notifications.log import Draft, accept, publish_due
from notifications.models import Message
from notifications.receipts import Deed, receipt, receipt_all

pytestmark = pytest.mark.django_db

USERS = ["alice", "bob"]  # Both of account acme.
TOPICS = ["user.alice", "user.bob", "account.acme", "all"]
TYPES = ["a", "b", "c"]
CRITICAL = "c"
START = datetime(2026, 6, 1, tzinfo=UTC)


@dataclass(slots=True)
class State:
    """What one user did with a message."""

    seen: bool = False
    read: bool = False
    archived: bool = False
    again: bool = False  # Unread again: it was seen, whatever the marker said.


@dataclass(slots=True)
class Sent:
    id: UUID
    topic: str
    type: str
    expires_at: datetime | None
    due_at: datetime | None
    excluded: frozenset[str]
    at: datetime | None = None  # In the log since then; None: not yet.
    order: int = 0
    recalled: bool = False
    withheld: bool = False
    states: dict[str, State] = field(default_factory=lambda: {user: State() for user in USERS})


class World(RuleBasedStateMachine):
    clock: ClassVar[time_machine.Traveller]

    def __init__(self) -> None:
        super().__init__()
        self.undo = transaction.atomic()
        self.undo.__enter__()
        self.clock.move_to(START)
        self.sent: list[Sent] = []
        self.chosen: dict[str, dict[str, str]] = {user: {} for user in USERS}
        self.published = 0

    @initialize()
    def two_users(self) -> None:
        for user in USERS:
            users._accounts.forget([user])
            users.see(user, "acme", START.timestamp())

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.undo.__exit__(None, None, None)

    # --- What happens -----------------------------------------------------------------------------

    @rule(
        topic=st.sampled_from(TOPICS),
        type=st.sampled_from(TYPES),
        ttl=st.none() | st.sampled_from([5, 60]),
        later=st.booleans(),
        excluded=st.frozensets(st.sampled_from(USERS), max_size=1),
    )
    def send(self, topic: str, type: str, ttl: int | None, later: bool, excluded: frozenset[str]) -> None:
        excluded = frozenset() if topic.startswith("user.") else excluded
        now = datetime.now(UTC)
        due_at = now + timedelta(seconds=10) if later else None
        draft = Draft([topic], b"0", type=type, ttl=ttl, send_at=due_at, exclude_users=excluded)
        (result,) = accept([draft])
        expires_at = (due_at or now) + timedelta(seconds=ttl) if ttl else None
        one = Sent(UUID(result.accepted[0].id), topic, type, expires_at, due_at, excluded)
        self.sent.append(one)
        if not later:
            self.publish(one)

    def publish(self, one: Sent) -> None:
        self.published += 1
        one.at, one.order = datetime.now(UTC), self.published
        if one.topic.startswith("user."):
            one.withheld = self.choice(one.topic[5:], one.type) == "off"

    def choice(self, user: str, type: str) -> str:
        chosen = self.chosen[user]
        return "live" if type == CRITICAL else chosen.get(type) or chosen.get("*", "live")

    @rule(seconds=st.sampled_from([1, 7, 30]))
    def time_passes(self, seconds: int) -> None:
        self.clock.shift(seconds)
        publish_due()
        due = [one for one in self.sent if one.at is None and not one.recalled and one.due_at <= datetime.now(UTC)]  # type: ignore[operator]
        for one in sorted(due, key=lambda one: (one.due_at, one.id)):
            self.publish(one)

    @precondition(lambda self: self.sent)
    @rule(which=st.integers(0, 100))
    def recall(self, which: int) -> None:
        one = self.sent[which % len(self.sent)]
        history.recall(Message.objects.filter(pk=one.id))
        one.recalled = True

    @rule(
        user=st.sampled_from(USERS),
        chosen=st.dictionaries(st.sampled_from(["*", "a", "b"]), st.sampled_from(["live", "inbox", "off"])),
    )
    def choose(self, user: str, chosen: dict[str, str]) -> None:
        preferences.replace(user, chosen)
        self.chosen[user] = chosen

    @precondition(lambda self: self.sent)
    @rule(user=st.sampled_from(USERS), deed=st.sampled_from(list(Deed)), which=st.sets(st.integers(0, 100), max_size=4))
    def do_it_to_some(self, user: str, deed: Deed, which: set[int]) -> None:
        chosen = {self.sent[n % len(self.sent)].id for n in which}
        done = receipt(user, deed, list(chosen))
        self.expect(user, deed, done.receipted, [one for one in self.inbox(user) if one.id in chosen])

    @rule(
        user=st.sampled_from(USERS),
        deed=st.sampled_from([Deed.SEEN, Deed.READ, Deed.ARCHIVE]),
        back=st.none() | st.integers(0, 20),
    )
    def do_it_to_all(self, user: str, deed: Deed, back: int | None) -> None:
        until = None if back is None else datetime.now(UTC) - timedelta(seconds=back)
        done = receipt_all(user, deed, until)
        below = self.below(user, until)
        self.expect(user, deed, done.receipted, [one for one in self.inbox(user) if one in below])
        for one in below:  # Also what is not in the inbox (now): a marker moves past it.
            _mark(one.states[user], deed)

    def below(self, user: str, until: datetime | None) -> list[Sent]:
        """What a marker passes that goes to the last message until then."""
        topics = self.topics(user)
        logged = [one for one in self.sent if one.at is not None and one.topic in topics]
        return [one for one in logged if until is None or (one.at and one.at <= until)]

    def expect(self, user: str, deed: Deed, receipted: Any, candidates: list[Sent]) -> None:
        changed = [one for one in candidates if _would_change(one.states[user], deed)]
        for one in changed:
            _mark(one.states[user], deed)
        assert sorted(receipted) == sorted(str(one.id) for one in changed)

    # --- What is true then ------------------------------------------------------------------------

    @staticmethod
    def topics(user: str) -> dict[str, int]:
        return {f"user.{user}": 0, "account.acme": 1, "all": 2}

    def inbox(self, user: str) -> list[Sent]:
        """All that is there for the user, archived or not, newest first."""
        now = datetime.now(UTC)
        topics = self.topics(user)
        found = [
            one
            for one in self.sent
            if one.topic in topics
            and one.at is not None
            and not one.recalled
            and not one.withheld
            and (one.expires_at is None or one.expires_at > now)
            and user not in one.excluded
            and (topics[one.topic] == 0 or self.choice(user, one.type) != "off")
        ]
        return sorted(found, key=lambda one: (one.at, -topics[one.topic], one.order), reverse=True)

    @invariant()
    def pages_and_counts_agree(self) -> None:
        for user in USERS:
            there, opened = self.inbox(user), Inbox.open(user)
            kept = [one for one in there if not one.states[user].archived]
            unread = [one for one in kept if not one.states[user].read]
            assert pages(opened) == [_shown(one, user) for one in kept]
            assert pages(opened, unread=True) == [_shown(one, user) for one in unread]
            archived = [one for one in there if one.states[user].archived]
            assert pages(opened, archived=True) == [_shown(one, user) for one in archived]
            waiting = [one for one in archived if not one.states[user].read]
            assert pages(opened, archived=True, unread=True) == [_shown(one, user) for one in waiting]
            some = [one for one in kept if one.type in ("a", "c")]
            assert pages(opened, wanted=Q(type__in=["a", "c"])) == [_shown(one, user) for one in some]
            counts = opened.counts()
            unseen = [one for one in unread if not (one.states[user].seen or one.states[user].again)]
            assert (counts.unread, counts.unseen, counts.unread_more) == (len(unread), len(unseen), False)


def pages(
    inbox: Inbox, *, wanted: Q | None = None, unread: bool = False, archived: bool = False
) -> list[tuple[Any, ...]]:
    """All pages, of a few messages each, in a row."""
    found: list[tuple[Any, ...]] = []
    place: Place | None = None
    while True:
        page, place = inbox.page(wanted or Q(), limit=4, before=place, unread=unread, archived=archived)
        found += [
            (m["id"], m["seen_at"] is not None, m["read_at"] is not None, m["archived_at"] is not None) for m in page
        ]
        if place is None:
            return found


def _shown(one: Sent, user: str) -> tuple[str, bool, bool, bool]:
    state = one.states[user]
    return str(one.id), state.seen or state.read, state.read, state.archived


def _would_change(state: State, deed: Deed) -> bool:
    match deed:
        case Deed.SEEN:
            return not (state.archived or state.seen or state.read or state.again)
        case Deed.READ:
            return not state.read
        case Deed.UNREAD:
            return state.read
        case Deed.ARCHIVE:
            return not state.archived


def _mark(state: State, deed: Deed) -> None:
    match deed:
        case Deed.SEEN:
            state.seen = True
        case Deed.READ:
            state.read, state.again = True, False
        case Deed.UNREAD:
            state.read, state.again = False, True
        case Deed.ARCHIVE:
            state.archived = True


@contextmanager
def stopped_clock() -> Iterator[None]:
    with time_machine.travel(START, tick=False) as clock:
        World.clock = clock
        yield


@pytest.mark.timeout(300)  # Half a minute, on a machine that does nothing else.
def test_the_inbox_is_what_a_naive_model_says(settings: Any) -> None:
    settings.CRITICAL_TYPES = [CRITICAL]
    with stopped_clock():
        run_state_machine_as_test(World, settings=RUN)


RUN = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
