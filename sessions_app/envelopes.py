"""What lies in a session's queue: messages, each encrypted for this session alone.

AES-256-GCM with a random nonce; what the envelope says, and whose it is, is authenticated with it. So a message does
not open if it was changed, moved to another topic, or taken from another session's queue.
"""

import base64
import os
import secrets
from dataclasses import dataclass

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sessions_app.shapes import Key

NONCE_BYTES = 12


class Envelope(msgspec.Struct):
    """The body of a message in a queue. `key` is the id of the key; `nonce` and `data` are base64."""

    v: int
    messageId: str
    topic: str
    offset: int | None
    key: str
    nonce: str
    data: str


@dataclass(frozen=True, slots=True)
class Letter:
    """A message as it stands in the log, or an event that does not. `body` is what is to be read."""

    id: str
    topic: str
    offset: int | None
    body: bytes


def new_key() -> Key:
    return Key(secrets.token_urlsafe(6), _text(AESGCM.generate_key(256)))


def sealed(letter: Letter, session: str, key: Key) -> bytes:
    """The letter in an envelope for this session."""
    nonce = os.urandom(NONCE_BYTES)
    data = AESGCM(base64.b64decode(key.value)).encrypt(nonce, letter.body, _associated(letter, session, key))
    return msgspec.json.encode(Envelope(1, letter.id, letter.topic, letter.offset, key.id, _text(nonce), _text(data)))


def _associated(letter: Letter, session: str, key: Key) -> bytes:
    offset = "" if letter.offset is None else str(letter.offset)
    return "\n".join([letter.topic, offset, session, key.id, letter.id]).encode()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
