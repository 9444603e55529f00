"""What a process remembers of users so that it need not ask the database again."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from msgspec import UNSET, UnsetType

from accounts import revocations
from accounts.revocations import Ended

USERS_MAX = 100_000

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """A value for each user, of USERS_MAX at most. What is revoked of a user, in any process, makes it forget them.

    Take the `version` before reading what is to be kept: it is not kept if anybody was forgotten meanwhile.
    """

    def __init__(self) -> None:
        self.version = 0
        self._values: OrderedDict[str, Value] = OrderedDict()
        self._lock = threading.Lock()
        revocations.listen(self.hear)

    def __contains__(self, user: str) -> bool:
        return user in self._values

    def get(self, user: str) -> Value | UnsetType:
        return self._values.get(user, UNSET)

    def keep(self, values: Mapping[str, Value], version: int) -> None:
        with self._lock:
            if version != self.version:
                return
            for user, value in values.items():
                self._values[user] = value
                self._values.move_to_end(user)
            while len(self._values) > USERS_MAX:
                self._values.popitem(last=False)

    def forget(self, users: Iterable[str]) -> None:
        with self._lock:
            self.version += 1
            for user in users:
                self._values.pop(user, None)

    def hear(self, news: Sequence[Ended]) -> None:
        if users := [ended.subject.removeprefix("user:") for ended in news if ended.subject.startswith("user:")]:
            self.forget(users)
