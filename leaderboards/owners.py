"""Owners by their names: an application names them, the rows that there are many of have their numbers."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from django.db import IntegrityError

from leaderboards.bulk import insert
from leaderboards.models import Owner

TRIES = 5

T = TypeVar("T")


def numbers(names: Iterable[str]) -> dict[str, int]:
    """The numbers of those who have one."""
    return dict(Owner.objects.filter(name__among=sorted(set(names))).values_list("name", "pk"))


def ensure(names: Iterable[str]) -> dict[str, int]:
    """The numbers of all, with those made that are missing."""
    wanted = set(names)
    found = numbers(wanted)
    if missing := sorted(wanted - found.keys()):  # Sorted: so nobody waits in a circle.
        insert(Owner, ["name"], [[name] for name in missing], "ON CONFLICT DO NOTHING")
        found |= numbers(missing)
    return found


def despite_erasures(work: Callable[[], T]) -> T:
    """Does work that is one transaction, anew where an owner was erased meanwhile: they begin as somebody unknown."""
    for _ in range(TRIES - 1):
        try:
            return work()
        except IntegrityError:
            continue
    return work()
