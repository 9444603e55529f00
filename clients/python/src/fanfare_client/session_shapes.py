"""What the server answers about sessions."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCredentials:
    """Lets receive from a session's own queue, and delete there, until `expiration`."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expiration: datetime
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueKey:
    """With which messages in the queue are encrypted: AES-256-GCM, in base64."""

    id: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A browser's session. `credentials` and `key` are shown once, of one with the transport `sqs`, to who makes or
    renews it."""

    session_id: str
    account_id: str | None
    user_id: str
    transport: str
    topic: str
    retention: int
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str = ""
    agent: str = ""
    sqs_url: str | None = None
    credentials: QueueCredentials | None = None
    key: QueueKey | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionMessage:
    """`body` is the event, as on a socket. Without a `receipt` it comes this once only."""

    message_id: str
    receipt: str
    body: Any
