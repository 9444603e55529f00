"""What a process remembers of users ends with news of them, and has a bound."""

from collections.abc import Iterator

import pytest
from msgspec import UNSET

from accounts import remembered, revocations
from accounts.remembered import Remembered
from accounts.revocations import Ended, Reason


@pytest.fixture
def memory() -> Iterator[Remembered[int]]:
    memory = Remembered[int]()
    yield memory
    revocations.ignore(memory.hear)


def ended(subject: str) -> Ended:
    return Ended(subject, Reason.CHANGED, 0.0, 0.0)


def test_what_is_revoked_of_a_user_makes_it_forget_them_only(memory: Remembered[int]) -> None:
    memory.keep({"alice": 1, "bob": 2}, memory.version)
    memory.hear([ended("token:bob"), ended("user:alice")])
    assert (memory.get("alice"), memory.get("bob")) == (UNSET, 2)


def test_what_was_read_before_somebody_was_forgotten_is_not_kept(memory: Remembered[int]) -> None:
    version = memory.version
    memory.hear([ended("user:alice")])
    memory.keep({"alice": 1}, version)
    assert "alice" not in memory
    version = memory.version
    memory.hear([ended("key:1")])
    memory.keep({"alice": 1}, version)
    assert memory.get("alice") == 1


def test_those_who_were_kept_last_are_remembered(memory: Remembered[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "USERS_MAX", 3)
    for user in ("alice", "bob", "carol", "alice", "dave"):
        memory.keep({user: 1}, memory.version)
    assert [user for user in ("alice", "bob", "carol", "dave") if user in memory] == ["alice", "carol", "dave"]
