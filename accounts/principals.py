"""Who calls, and what they may."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from accounts.errors import ApiError

SCOPES = frozenset(
    f"{area}:{verb}"
    for area in (
        "notifications",
        "inbox",
        "tasks",
        "tokens",
        "users",
        "presence",
        "leaderboards",
        "sessions",
        "events",
        "cache",
        "deliveries",
        "admin",
    )
    for verb in ("read", "write")
)


class Kind(StrEnum):
    SERVICE = "service"
    USER = "user"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: a service (API key), a user (JWT) or an operator (Django session).

    `scopes` are what a service or operator may do through the API. `subscribe` and `publish` are capabilities
    over topics, each an exact name or a prefix that ends in `*`. `expires_at` is in epoch seconds.
    """

    kind: Kind
    id: str
    account: str | None = None
    scopes: frozenset[str] = frozenset()
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    expires_at: float | None = None

    is_authenticated = True  # What Django REST framework's permissions ask for.

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @property
    def user(self) -> str | None:
        """The id of the end user, where the caller is one."""
        return self.id if self.kind is Kind.USER else None

    def has_scope(self, scope: str) -> bool:
        return scope in self.scopes

    def require_scope(self, scope: str) -> None:
        """Raises ApiError 403 unless the caller has the scope."""
        if scope not in self.scopes:
            raise ApiError(403, "scope_missing", f"This needs a credential with the scope {scope}.")

    def can_subscribe(self, topic: str) -> bool:
        return _matches(self.subscribe, topic)

    def can_publish(self, topic: str) -> bool:
        return _matches(self.publish, topic)


def _matches(patterns: Iterable[str], topic: str) -> bool:
    return any(topic.startswith(p[:-1]) if p.endswith("*") else topic == p for p in patterns)
