"""Who calls, and what they may."""

from collections.abc import Iterable
from dataclasses import dataclass, field
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
ID_MAX_BYTES = 200
ID_WANTED = f"1-{ID_MAX_BYTES} bytes of printable text without comma"


class Kind(StrEnum):
    SERVICE = "service"
    USER = "user"
    TOKEN = "token"  # noqa: S105 (no password)
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: a service (API key), a user (JWT), the holder of a scoped token, or an operator (Django session).

    `scopes` are what a service or operator may do through the API. `subscribe` and `publish` are capabilities
    over topics, each an exact name or a prefix that ends in `*`; the holder of a scoped token has nothing else,
    `holder` is the user that it was made for. `credential` names what proved it, for revocation. Times are in epoch
    seconds.
    """

    kind: Kind
    id: str
    account: str | None = None
    scopes: frozenset[str] = frozenset()
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    expires_at: float | None = None
    issued_at: float = 0.0
    credential: str = ""
    holder: str | None = None
    session: str = field(default="", repr=False)  # An operator's session key.

    is_authenticated = True  # What Django REST framework's permissions ask for.

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}"

    @property
    def user(self) -> str | None:
        """The id of the end user, where there is one. It does not say that the caller may act for them: see `acts`."""
        return self.id if self.kind is Kind.USER else self.holder

    @property
    def acts(self) -> str | None:
        """The id of the end user whose own things the caller may read and change."""
        return self.id if self.kind is Kind.USER else None

    @property
    def is_backend(self) -> bool:
        """Whether it acts for anyone, within its scopes."""
        return self.kind in (Kind.SERVICE, Kind.OPERATOR)

    @property
    def own_topics(self) -> list[str]:
        """What it listens to unless it asks for something else."""
        if self.kind is Kind.TOKEN:
            return [pattern for pattern in self.subscribe if not pattern.endswith("*")]
        if self.kind is not Kind.USER:
            return []
        return [f"user.{self.id}", *([f"account.{self.account}"] if self.account is not None else []), "all"]

    @property
    def subjects(self) -> list[str]:
        """What a revocation may name to end this credential."""
        return [self.credential, *([f"user:{self.user}"] if self.user is not None else [])]

    def has_scope(self, scope: str) -> bool:
        return scope in self.scopes

    def require_scope(self, scope: str) -> None:
        """Raises ApiError 403 unless the caller has the scope."""
        if scope not in self.scopes:
            raise ApiError(403, "scope_missing", f"This needs a credential with the scope {scope}.")

    def require_user(self) -> str:
        """The end user whom the caller acts for. Raises ApiError 403 for any other caller."""
        if self.acts is None:
            raise ApiError(403, "denied", "This is for users: services name one, scoped tokens have their topics only.")
        return self.acts

    def can_subscribe(self, topic: str) -> bool:
        return covers(self.subscribe, topic)

    def can_publish(self, topic: str) -> bool:
        return covers(self.publish, topic)


def valid_id(value: object) -> bool:
    """Whether a value can be a user's or account's id: 1-200 bytes of printable text without comma."""
    if not (isinstance(value, str) and value.isprintable() and "," not in value):
        return False
    return 1 <= len(value.encode()) <= ID_MAX_BYTES


def covers(patterns: Iterable[str], pattern: str) -> bool:
    """Whether everything that a topic, or a beginning and `*`, names is named by one of the patterns."""
    return any(pattern.startswith(p[:-1]) if p.endswith("*") else pattern == p for p in patterns)
