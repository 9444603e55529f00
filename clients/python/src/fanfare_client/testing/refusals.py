"""What the fake's routes share."""

from datetime import UTC, datetime
from typing import Any

Json = dict[str, Any]


class Refusal(Exception):
    def __init__(self, status: int, code: str, message: str = "The fake refuses this, as the server would.") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
