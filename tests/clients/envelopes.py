"""Messages as the server seals them for a session with a queue of its own."""

import base64
import json
import os
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32


def packed(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sealed(
    event: dict[str, Any],
    session: str,
    key_id: str,
    key: bytes,
    *,
    nonce: bytes | None = None,
    message_id: str | None = None,
) -> dict[str, Any]:
    """An event (or a pointer to one) in its envelope."""
    nonce = nonce or os.urandom(12)
    id = message_id or event.get("messageId") or event["id"]
    topic, offset = event["topic"], event.get("offset")
    bound = "\n".join([topic, str(offset or ""), session, key_id, id]).encode()
    data = AESGCM(key).encrypt(nonce, json.dumps(event).encode(), bound)
    said = {"v": 1, "messageId": id, "topic": topic, "offset": offset, "key": key_id}
    return {**said, "nonce": packed(nonce), "data": packed(data)}


def message(id: str, data: Any = None, offset: int | None = 1, topic: str = "user.ann") -> dict[str, Any]:
    fields = {"id": id, "topic": topic, "offset": offset, "type": "note", "data": data}
    return {"event": "message", **fields, "created_at": "2026-01-01T00:00:00Z"}


def pointer(id: str, offset: int, topic: str = "user.ann") -> dict[str, Any]:
    return {"event": "pointer", "topic": topic, "offset": offset, "messageId": id}
