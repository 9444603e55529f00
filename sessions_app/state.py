"""How far a session that polls has come: what was handed out to it, and what of that it has not acknowledged.

Everything up to a topic's offset was handed out or passed over; what is not lent is done with. So a message that nobody
fetches costs no row, and a broadcast is not copied.
"""

from collections.abc import Iterable, Mapping

import msgspec

from realtime.log import Position


class Loan(msgspec.Struct, array_like=True):
    """It was handed out so many times, and comes again at `until` (epoch seconds) unless it is acknowledged."""

    times: int
    until: float


class State(msgspec.Struct):
    """`at`: of each topic, its epoch and up to where it was handed out.

    `lent`: by the id of the message; or by the name of a topic, of which a `reset` was handed out.
    """

    at: dict[str, tuple[str | None, int]]
    lent: dict[str, Loan] = {}

    def follow(self, positions: Mapping[str, Position]) -> None:
        """These are the topics now. A new one counts from here; one with another numbering, too, and owes a reset."""
        was, self.at = self.at, {}
        for name, now in positions.items():
            epoch, offset = was.get(name, (now.epoch, now.head))
            if epoch not in (now.epoch, None if offset == 0 else now.epoch) or offset > now.head:
                self.lent[name] = Loan(0, 0.0)
                offset = now.head
            self.at[name] = (now.epoch, offset)
        for name in was.keys() - positions.keys():
            self.lent.pop(name, None)

    def lend(self, id: str, until: float) -> str:
        """Hands it out -> the receipt, which holds until it is handed out again."""
        loan = Loan(self.lent[id].times + 1 if id in self.lent else 1, until)
        self.lent[id] = loan
        return _receipt(id, loan)

    def due(self, now: float) -> list[str]:
        return [id for id, loan in self.lent.items() if loan.until <= now]

    def settle(self, receipts: Iterable[str], *, done: bool) -> list[str]:
        """Takes back what was lent, because it is done with or to hand it out again -> the receipts that held."""
        held = []
        for receipt in dict.fromkeys(receipts):
            id = receipt.rpartition(":")[0]
            loan = self.lent.get(id)
            if loan and _receipt(id, loan) == receipt:
                held.append(receipt)
                if done:
                    del self.lent[id]
                else:
                    loan.until = 0.0
        return held


def _receipt(id: str, loan: Loan) -> str:
    return f"{id}:{loan.times}"


def begin(positions: Mapping[str, Position]) -> str:
    """The state of a new session: nothing from before counts."""
    return dump(State({name: (position.epoch, position.head) for name, position in positions.items()}))


def followed(text: str, positions: Mapping[str, Position]) -> str:
    """The state once these are the session's topics."""
    state = load(text)
    state.follow(positions)
    return dump(state)


def load(text: str) -> State:
    return msgspec.json.decode(text, type=State)


def dump(state: State) -> str:
    return msgspec.json.encode(state).decode()
