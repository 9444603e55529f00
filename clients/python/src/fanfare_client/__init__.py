"""Fanfare from Python: `Client` waits, `AsyncClient` is for asyncio; the rest is what they return and raise."""

from fanfare_client.async_client import AsyncClient
from fanfare_client.client import Client
from fanfare_client.conversation import Policy
from fanfare_client.errors import FanfareError, InvalidSignature
from fanfare_client.events import (
    BoardEvent,
    Connected,
    Disconnected,
    Event,
    PresenceEvent,
    Recalled,
    ReceiptEvent,
    Refused,
    Reset,
    RoomEvent,
    Snapshot,
    TaskEvent,
    UnreadEvent,
)
from fanfare_client.routes.notifications import notification
from fanfare_client.shapes import START, Message, Position
from fanfare_client.webhooks import sign_webhook, verify_webhook

__all__ = [
    "START",
    "AsyncClient",
    "BoardEvent",
    "Client",
    "Connected",
    "Disconnected",
    "Event",
    "FanfareError",
    "InvalidSignature",
    "Message",
    "Policy",
    "Position",
    "PresenceEvent",
    "Recalled",
    "ReceiptEvent",
    "Refused",
    "Reset",
    "RoomEvent",
    "Snapshot",
    "TaskEvent",
    "UnreadEvent",
    "notification",
    "sign_webhook",
    "verify_webhook",
]
