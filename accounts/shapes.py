"""The bodies of the identity API, and what all of the API's refusals look like."""

from datetime import datetime
from typing import Annotated, Any, Literal

from drf_spectacular.utils import OpenApiParameter
from msgspec import UNSET, Meta, Struct, UnsetType, field

Id = Annotated[str, Meta(min_length=1, max_length=200, description="As the application names it.")]
TopicPattern = Annotated[
    str, Meta(min_length=1, max_length=220, description="A topic, or the beginning of some and `*`.")
]


class Problem(Struct, omit_defaults=True):
    code: str
    message: str
    fields: dict[str, str] = {}


class Error(Struct):
    """What every refusal looks like."""

    error: Problem


ERRORS = dict.fromkeys((400, 401, 403, 404, 406, 409, 413, 415, 422, 429, 503), Error)


def query(name: str, description: str, kind: type = str, *, required: bool = False) -> OpenApiParameter:
    return OpenApiParameter(name, kind, OpenApiParameter.QUERY, description=description, required=required)


class UserChange(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be changed of a user; what is not given stays."""

    account: Annotated[Id | UnsetType | None, Meta(description="Another one moves the user.")] = UNSET
    name: Annotated[str, Meta(max_length=200)] | UnsetType = UNSET
    attributes: Annotated[dict[str, Any], Meta(description="Up to 16 KiB of JSON.")] | UnsetType = UNSET


class User(Struct):
    id: str
    account: str | None
    name: str
    attributes: dict[str, Any]
    created_at: datetime


class TokenRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A token to make. With `topics` it is for these and nothing else; without, its user acts for themselves."""

    user: Id | UnsetType = UNSET
    account: Id | UnsetType = UNSET
    topics: Annotated[list[TopicPattern], Meta(min_length=1, max_length=100)] | UnsetType = UNSET
    allow: Annotated[list[Literal["subscribe", "publish"]], Meta(min_length=1, max_length=2)] = field(
        default_factory=lambda: ["subscribe"]
    )
    ttl: Annotated[int, Meta(ge=1, le=90_000, description="Seconds.")] = 3600


class NewToken(Struct):
    """The token is shown here and never again."""

    id: str
    token: str
    expires_at: datetime


class Token(Struct):
    id: str
    user: str | None
    account: str | None
    subscribe: list[str]
    publish: list[str]
    created_at: datetime
    created_by: str
    expires_at: datetime
    revoked_at: datetime | None


class Tokens(Struct):
    tokens: list[Token]
    next: str | None


class OwnToken(Struct):
    """A token to listen with, in the shape that Momento's clients know. `expiresAt` is in epoch seconds."""

    endpoint: str
    token: str
    cacheName: str
    expiresAt: int


class Ticket(Struct):
    ticket: str
    expires_at: datetime


class AuditEntry(Struct):
    id: str
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str
    address: str
    created_at: datetime


class Audit(Struct):
    entries: list[AuditEntry]
    next: str | None
