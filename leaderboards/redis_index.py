"""The index of a window in Redis or Valkey: what is kept, and in which form, ranking_scripts says."""

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Any

from leaderboards import ranking_scripts as scripts
from leaderboards.bulk import chunks
from leaderboards.ranking import Change, Gap, Missing, Row, Unavailable, WindowKey
from realtime.redis_scripts import Argument, RedisDown, run

NEW_CHANGES = 1000  # A window with more of them is not new any more.
CHANGES_A_SCRIPT = 1000  # So that nobody waits long for Redis; 3,900 are possible.
SIGN = 1 << 63
ALL = (1 << 64) - 1
TAG_BYTES = 14

_float = Struct(">d")
_word = Struct(">Q")
_tag = Struct(">QHI")

Ranks = dict[str, int | None]


class Index:
    """The index of a window, or one under keys of its own, which have a suffix, that is to take its place."""

    def __init__(self, window: WindowKey, suffix: str = "") -> None:
        self.window = window
        self.keys = [f"fanfare:board:{{{window.id}}}:{kind}{suffix}" for kind in "zmid"]
        self.lease = f"fanfare:board:{{{window.id}}}:lease"

    def ask(self, script: str, *args: Argument) -> Any:
        """Runs a script that begins with INDEX. Raises Missing, Unavailable."""
        answer = call(script, self.keys, self.window.epoch, *args)
        if answer is None:
            raise Missing
        return answer

    def head(self) -> int:
        return int(self.ask(scripts.HEAD))

    def open(self) -> None:
        """Makes an index without entries, at 0, where there is none, and nobody else's."""
        call(scripts.OPEN, self.keys, self.window.epoch)

    def ranks(self, names: Sequence[str]) -> list[int | None]:
        return [rank for some in chunks(names, CHANGES_A_SCRIPT) for rank in self.ask(scripts.RANKS, *some)]

    def apply(self, changes: Sequence[Change], *, ranks: bool) -> tuple[Ranks, Ranks] | None:
        """Takes 1 to CHANGES_A_SCRIPT changes -> if wanted, the ranks before and after; None: it had some already.

        Raises Gap, too.
        """
        new = changes
        while new:
            last = {change.name: change for change in new}
            edges = new[0].seq - 1, new[-1].seq
            head, *found = self.ask(scripts.APPLY, *edges, int(ranks), *arguments(self.window, last.values()))
            if found and len(new) == len(changes):
                before, after = (dict(zip(last, some or [], strict=ranks)) for some in found)
                return before, after
            if found:
                break
            if int(head) < edges[0]:
                raise Gap(int(head))
            new = [change for change in new if change.seq > int(head)]
        return None


def call(script: str, keys: Sequence[str], *args: Argument) -> Any:
    """Runs a script -> texts in bytes. Raises Unavailable."""
    try:
        return run(script, keys, args, decode=False)
    except RedisDown as error:
        raise Unavailable(str(error)) from error


# --- What it is made of ---------------------------------------------------------------------------


def tag(window: WindowKey, subscore: float, place: int) -> bytes:
    """What sorts, as bytes, entries of equal scores: by subscores, better first, then by places."""
    subscore = 0.0 - subscore if window.descending else subscore + 0.0  # Neither gives -0.0.
    bits: int = _word.unpack(_float.pack(subscore))[0]
    bits ^= ALL if bits & SIGN else SIGN
    return _tag.pack(bits, place >> 32, place & 0xFFFFFFFF)


def order(window: WindowKey, score: float) -> str:
    """A score as Redis has it: exact, and smaller where better."""
    return repr(0.0 - score if window.descending else score + 0.0)


def arguments(window: WindowKey, changes: Iterable[Change]) -> list[Argument]:
    """Changes as scripts take them: names, tags, scores."""
    names: list[Argument] = []
    tags: list[Argument] = []
    scores: list[Argument] = []
    for _seq, name, key in changes:
        names.append(name)
        tags.append(tag(window, key.subscore, key.place) if key else b"")
        scores.append(order(window, key.score) if key else b"")
    return names + tags + scores


def row(window: WindowKey, score: float, member: bytes, rank: int) -> Row:
    """What a member of the sorted set says."""
    bits, high, low = _tag.unpack_from(member)
    bits ^= SIGN if bits & SIGN else ALL
    subscore: float = _float.unpack(_word.pack(bits))[0]
    if window.descending:
        score, subscore = 0.0 - score, 0.0 - subscore
    return Row(member[TAG_BYTES:].decode(), score, subscore, high << 32 | low, rank)
