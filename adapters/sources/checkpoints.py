"""How far each part of a source has been taken, and which consumer reads it: rows, so that several share the parts.

A lease only spares work: when two read the same part for a moment, each record still counts once.
"""

import math
from collections import Counter
from collections.abc import Collection
from datetime import timedelta

from django.db.models import Q
from django.utils import timezone

from adapters.models import Checkpoint

LEASE = timedelta(seconds=15)  # After a kill -9 others go on when it is over.


def add(source: str, parts: Collection[str], position: str = "") -> None:
    """Parts that are seen for the first time begin at this position; the others stay as they are."""
    rows = [Checkpoint(source=source, part=part, position=position) for part in parts]
    Checkpoint.objects.bulk_create(rows, ignore_conflicts=True)


def share(claim: str, source: str, parts: Collection[str]) -> dict[str, str]:
    """Renews what this consumer holds of the parts, and takes what is free, up to its fair share.

    If nothing is free and another one holds more than it has to, one is taken away from that -> part: position.
    """
    now = timezone.now()
    rows = Checkpoint.objects.filter(source=source, part__in=parts, ended=False)
    rows.filter(claim=claim).update(claimed_until=now + LEASE)
    held = Counter(rows.filter(claimed_until__gt=now).values_list("claim", flat=True))
    mine = held.pop(claim, 0)
    most = math.ceil(rows.count() / (len(held) + 1))
    free = rows.filter(Q(claimed_until=None) | Q(claimed_until__lte=now))
    takes = list(free.order_by("part").values_list("pk", "claim")[: max(0, most - mine)])
    if not takes and held and max(held.values()) > mine + 1:
        richest = max(held, key=lambda one: held[one])
        takes = list(rows.filter(claim=richest).order_by("-part").values_list("pk", "claim")[:1])
    for pk, holder in takes:
        Checkpoint.objects.filter(pk=pk, claim=holder).update(claim=claim, claimed_until=now + LEASE)
    return dict(rows.filter(claim=claim).values_list("part", "position"))


def save(claim: str, source: str, part: str, position: str, *, ended: bool = False) -> bool:
    """Moves the position; false where another consumer holds the part by now: its position counts."""
    now = timezone.now()
    held = Checkpoint.objects.filter(source=source, part=part, claim=claim)
    return held.update(position=position, ended=ended, changed_at=now, claimed_until=now + LEASE) == 1


def release(claim: str, source: str) -> None:
    """Others can go on at once."""
    Checkpoint.objects.filter(source=source, claim=claim).update(claim="", claimed_until=None)


def ended(source: str, parts: Collection[str]) -> set[str]:
    """Those of the parts that have no more."""
    rows = Checkpoint.objects.filter(source=source, part__in=parts, ended=True)
    return set(rows.values_list("part", flat=True))


def known(source: str, prefix: str) -> bool:
    """Whether there is a part whose name begins so."""
    return Checkpoint.objects.filter(source=source, part__startswith=prefix).exists()
