"""What users do not want live: known to the hub by the type of a message, asked only where somebody mutes it."""

from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mute:
    """Types of messages that a user does not get live: these, or all but these. What has no type always comes."""

    types: frozenset[str] = frozenset()
    all_but: bool = False

    def __bool__(self) -> bool:
        return self.all_but or bool(self.types)

    def __contains__(self, type: object) -> bool:
        return bool(type) and (type in self.types) is not self.all_but


NOTHING = Mute()


class Mutes:
    """The mutes of a process's connections, counted: whether anybody at all mutes a type."""

    def __init__(self) -> None:
        self._types: Counter[str] = Counter()
        self._all_but = 0

    def add(self, mute: Mute) -> None:
        if mute.all_but:
            self._all_but += 1
        else:
            self._types.update(mute.types)

    def remove(self, mute: Mute) -> None:
        if mute.all_but:
            self._all_but -= 1
        else:
            self._types -= Counter(mute.types)  # What nobody mutes any more leaves.

    def __contains__(self, type: object) -> bool:
        return bool(type) and (self._all_but > 0 or type in self._types)
