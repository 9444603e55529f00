"""How far a session that polls has come: what was handed out to it, and what of that it has not acknowledged.

Everything up to a topic's offset was handed out; what is not lent is done with. So a message that nobody fetches costs
no row, and a broadcast is not copied.
"""

from collections.abc import Mapping

import msgspec

from realtime.log import Position


class Loan(msgspec.Struct, array_like=True):
    """A message that was handed out, and comes again at `until` (epoch seconds) unless it is acknowledged."""

    topic: str
    offset: int
    receipt: str
    until: float


class State(msgspec.Struct):
    """`at`: of each topic, its epoch and up to where it was handed out."""

    at: dict[str, tuple[str | None, int]]
    lent: list[Loan] = []


def begin(positions: Mapping[str, Position]) -> str:
    """The state of a new session: nothing from before counts."""
    return dump(State({name: (position.epoch, position.head) for name, position in positions.items()}))


def load(text: str) -> State:
    return msgspec.json.decode(text, type=State)


def dump(state: State) -> str:
    return msgspec.json.encode(state).decode()
