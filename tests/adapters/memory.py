"""An adapter that keeps what it gets in memory, and does with it what a test says."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from adapters.base import Adapter, Outcome, Parcel


class Memory(Adapter):
    """`sent`: names of destinations with the parcels that they got. `outcomes`: what the next ones get, by name."""

    batch_size = 40
    max_bytes = 100_000
    hidden = frozenset({"password"})
    sent: ClassVar[list[tuple[str, Parcel]]] = []
    outcomes: ClassVar[dict[str, list[Outcome]]] = {}
    seconds: ClassVar[dict[str, float]] = {}  # How long a batch takes.

    class Options(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
        colour: str = "red"
        password: str = ""

    @classmethod
    def reset(cls) -> None:
        for kept in (cls.sent, cls.outcomes, cls.seconds):
            kept.clear()

    async def publish(self, batch: Sequence[Parcel]) -> Sequence[Outcome]:
        name = self.target.name
        await asyncio.sleep(self.seconds.get(name, 0.0))
        if self.target.options.get("colour") == "explosive":
            raise RuntimeError("boom")
        results = []
        failed: set[str] = set()
        for parcel in batch:
            waiting = self.outcomes.get(name, [])
            outcome = Outcome("behind another", tried=False) if self.ordered and parcel.key in failed else None
            if outcome is None:
                self.sent.append((name, parcel))
                outcome = waiting.pop(0) if waiting else Outcome()
            if not outcome.delivered:
                failed.add(parcel.key)
            results.append(outcome)
        return results


class OrderedMemory(Memory):
    ordered = True
