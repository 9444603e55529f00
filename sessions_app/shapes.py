"""The bodies of the session API."""

from datetime import datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from accounts.shapes import Id

RETENTION_LEAST, RETENTION_MOST = 60, 14 * 24 * 3600  # As SQS has it.
SessionId = Annotated[str, Meta(min_length=1, max_length=256, description="As the application names it.")]
Seconds = Annotated[int, Meta(ge=RETENTION_LEAST, le=RETENTION_MOST, description="For which a message waits.")]


class SessionRequest(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A session to make, or to go on with. Users need not name themselves."""

    account: Id | UnsetType = UNSET
    user: Id | UnsetType = UNSET
    session: SessionId | UnsetType = UNSET
    transport: Literal["poll", "sqs"] = "poll"
    retention: Seconds = 3600


class Credentials(Struct, rename="camel"):
    """For the session's own queue, and nothing else."""

    access_key_id: str
    secret_access_key: str
    session_token: str
    expiration: datetime
    region: str

    def __repr__(self) -> str:
        return f"Credentials({self.access_key_id})"  # The rest is secret.


class Key(Struct):
    """With which messages are encrypted from now on: AES-256-GCM, in base64."""

    id: str
    value: str

    def __repr__(self) -> str:
        return f"Key({self.id})"


class Session(Struct, omit_defaults=True, kw_only=True):
    """A session. What gives access to its queue is shown once, to who creates or renews it."""

    sessionId: str
    accountId: str | None
    userId: str
    transport: Literal["poll", "sqs"]
    topic: str
    retention: int
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str
    agent: str
    sqsUrl: str | UnsetType = UNSET
    credentials: Credentials | UnsetType = UNSET
    key: Key | UnsetType = UNSET


class OneSession(Struct):
    session: Session


class Sessions(Struct):
    sessions: list[Session]
    next: str | None


class SessionReceive(Struct, forbid_unknown_fields=True, omit_defaults=True):
    wait: Annotated[int, Meta(ge=0, le=20, description="Seconds to wait while there is nothing.")] = 0
    max: Annotated[int, Meta(ge=1, le=10)] = 10
    visibility: Annotated[
        int, Meta(ge=5, le=43_200, description="Seconds until it comes again unless acknowledged.")
    ] = 30


class ReceivedMessage(Struct):
    """A message, `body` as on a socket. `receipt` is for this time that it came; empty where it comes once only."""

    messageId: str
    receipt: str
    body: Raw


class ReceivedMessages(Struct):
    messages: list[ReceivedMessage]


class Acknowledgement(Struct, forbid_unknown_fields=True):
    receipts: Annotated[list[str], Meta(min_length=1, max_length=1000)]


class SettledReceipts(Struct):
    """The receipts that held; the others are of messages that came again, or are done with."""

    acknowledged: list[str]
