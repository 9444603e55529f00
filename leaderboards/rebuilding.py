"""Making the index of a window anew from the record, while others read and write.

One process at a time, which holds the window's lease, builds a new index under keys of its own: the entries, each in
the state in which it comes upon it, and then all changes since it began. So each entry is as its last change left it.
The new index takes the old one's place, if the lease is held still; later changes find a gap and fill it from the
record. What a process that dies leaves behind, expires.
"""

import logging
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from leaderboards import ranking_scripts as scripts
from leaderboards.bulk import chunks
from leaderboards.models import Entry, Submission, Window
from leaderboards.ranking import Change, Key, Missing, Told, Unavailable, WindowKey, nobody
from leaderboards.rankings import key_of, ranking_of
from leaderboards.redis_index import CHANGES_A_SCRIPT, Index, call, order, tag
from realtime.redis_scripts import Argument

logger = logging.getLogger(__name__)

LEASE_MS = 3000  # Each step renews it; so long one waits for a process that died.
LEFT_BEHIND_MS = 60_000
ROWS_A_STATEMENT = 10_000
ATTEMPTS = 3

_Entry = tuple[int, str, float, float, int]
"""The owner's number and name, score, subscore and place."""

_WANTED = "fanfare:boards:todo"


class _Torn(Exception):
    """The record lacks changes, for an owner has been erased meanwhile: what was read may be theirs."""


def rebuild(window: WindowKey, told: Told = nobody) -> None:
    """Makes the index in Redis anew. Raises Unavailable, also while another process is at it."""
    live, token = Index(window), secrets.token_hex(8)
    if not call(scripts.TAKE_LEASE, [live.lease], token, LEASE_MS):
        raise Unavailable("The index is being made anew already.")
    try:
        for _ in range(ATTEMPTS):
            try:
                _build(live, token, told)
            except _Torn:
                continue
            return
        raise Unavailable("Owners are erased too often for the index to be made.")
    finally:
        call(scripts.END_LEASE, [live.lease], token)


def _build(live: Index, token: str, told: Told) -> None:
    window = live.window
    state = _state(window.id)
    if state is None:  # It has been deleted.
        call(scripts.FORGET, live.keys)
        return
    seq, epoch = state
    if epoch != window.epoch:
        raise Unavailable("The window's order is not what it was: ask again.")
    new = Index(window, f".{token}")
    call(scripts.BEGIN, [*new.keys, live.keys[2]], epoch, seq, LEFT_BEHIND_MS)
    _fill(new, token, told)
    _follow(new, token, seq)
    if not call(scripts.SWAP, [*new.keys, *live.keys, live.lease], token):
        raise Unavailable("Another process has taken over.")


def _fill(new: Index, token: str, told: Told) -> None:
    """Puts in all entries: Redis works on some while the next ones are read."""
    done = 0
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(_load, new, token)
        for entries in _entries(new.window.id):
            for some in chunks(entries, CHANGES_A_SCRIPT):
                values = _arguments(new.window, some)
                loading.result()
                loading = pool.submit(_load, new, token, *values)
                done += len(some)
                told(done)
        loading.result()


def _arguments(window: WindowKey, entries: Sequence[_Entry]) -> list[Argument]:
    """As redis_index.arguments has it, at once: objects of a million entries take longer to make than to load."""
    names: list[Argument] = [name for _, name, _, _, _ in entries]
    tags = [tag(window, subscore, place) for _, _, _, subscore, place in entries]
    return [*names, *tags, *(order(window, score) for _, _, score, _, _ in entries)]


def _load(new: Index, token: str, *values: Argument) -> None:
    """Puts in entries, if any, and renews the lease."""
    keys = [*new.keys, new.lease]
    if not call(scripts.LOAD, keys, new.window.epoch, token, LEASE_MS, LEFT_BEHIND_MS, *values):
        raise Unavailable("Another process has taken over, or Redis has lost what was made so far.")


def _follow(new: Index, token: str, seq: int) -> None:
    """Applies what has happened since."""
    state = _state(new.window.id)
    while changes := recorded(new.window.id, seq, CHANGES_A_SCRIPT):
        if changes[-1].seq - seq != len(changes):
            raise _Torn
        _load(new, token)
        new.apply(changes, ranks=False)
        seq = changes[-1].seq
        if len(changes) < CHANGES_A_SCRIPT:
            break
    if state is None or seq < state[0] or new.window.epoch != state[1]:
        raise _Torn


# --- The record -----------------------------------------------------------------------------------


def recorded(window: int, after: int, limit: int) -> list[Change]:
    """The changes of a window that follow a number; of a user who was erased, nothing is left."""
    found = Submission.objects.filter(window=window, seq__gt=after).order_by("seq")
    values = found.values_list("seq", "owner__name", "score", "subscore", "place")[:limit]
    return [
        Change(seq or 0, name, None if place is None else Key(score or 0.0, subscore or 0.0, place))
        for seq, name, score, subscore, place in values
    ]


def _state(window: int) -> tuple[int, str] | None:
    return Window.objects.filter(pk=window).values_list("seq", "epoch").first()


def _entries(window: int) -> Iterator[list[_Entry]]:
    """All that are ranked."""
    last = 0
    while True:
        ranked = Entry.objects.filter(window=window, hidden=False, owner__gt=last).order_by("owner_id")
        values = ranked.values_list("owner_id", "owner__name", "score", "subscore", "place")
        rows = list(values[:ROWS_A_STATEMENT])
        if not rows:
            return
        yield rows
        last = rows[-1][0]


# --- What is to be rebuilt in the background ------------------------------------------------------


def want(window: int) -> None:
    """Has the index of a window made anew within a second or so. Raises Unavailable."""
    call(scripts.WANT, [_WANTED], window)


def rebuild_wanted(limit: int = 10) -> int:
    """Makes some of the indexes anew that somebody missed -> how many. What others are making is left to them.

    One that fails keeps nobody else waiting: it is made when somebody misses it again.
    """
    done = 0
    for number in call(scripts.WANTED, [_WANTED], limit):
        window = Window.objects.select_related("board").filter(pk=int(number), archived_at=None).first()
        try:
            if window:
                ranking_of(window.board).rebuild(key_of(window))
                done += 1
        except (Missing, Unavailable) as error:  # Missing: Redis has lost everything meanwhile.
            logger.info("The index of %s has to wait: %s", window, error)
            continue
        except Exception:
            logger.exception("The index of %s cannot be made", window)
        call(scripts.DONE, [_WANTED], number)
    return done
