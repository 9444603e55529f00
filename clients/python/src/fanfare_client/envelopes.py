"""What lies in a session's own queue: an event, encrypted for this session, by AES-256-GCM. No I/O."""

import base64
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec


class Undecipherable(Exception):
    """It was changed, or not sealed for this session."""


class Cipher(Protocol):
    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None, /) -> bytes: ...


class Envelope(msgspec.Struct, rename="camel"):
    message_id: str
    topic: str
    offset: int | None
    key: str
    nonce: str
    data: str


def envelope_of(text: str) -> Envelope:
    """Raises Undecipherable."""
    try:
        return msgspec.json.decode(text, type=Envelope)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise Undecipherable from error


def cipher(key: str) -> Cipher:
    """Of a key in base64. Raises ImportError where there is nothing to decipher with, ValueError for what is no key."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise ImportError("For sessions of transport sqs: pip install 'fanfare-client[sqs]'.") from error
    return AESGCM(base64.b64decode(key))


def opened(envelope: Envelope, session: str, ciphers: Mapping[str, Cipher]) -> Any:
    """The event in it; None where that is in the log: it was too large, or the key is not known here.

    Raises Undecipherable.
    """
    if envelope.key not in ciphers:
        return None
    offset = "" if envelope.offset is None else str(envelope.offset)
    bound = "\n".join([envelope.topic, offset, session, envelope.key, envelope.message_id])
    try:
        nonce, data = (base64.b64decode(part, validate=True) for part in (envelope.nonce, envelope.data))
        event = msgspec.json.decode(ciphers[envelope.key].decrypt(nonce, data, bound.encode()))
    except Exception as error:  # InvalidTag is not there to be named without the package.
        raise Undecipherable from error
    return None if isinstance(event, dict) and event.get("event") == "pointer" else event
