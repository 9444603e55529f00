"""`fanfare doctor`: from the address to the live connection, what works, and what to do about what does not."""

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import httpx

from fanfare_client.client import Client
from fanfare_client.command.output import Output
from fanfare_client.errors import FanfareError
from fanfare_client.events import Connected, Disconnected

SECONDS = 5.0
SKEW_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    ok: bool
    text: str


def doctor(client: Client, _options: Namespace, output: Output) -> int:
    """1 if anything is wrong. What cannot work after a failure is not tried."""
    checks: dict[str, Callable[[Client], str]] = {
        "server": _server,
        "ready": _ready,
        "clock": _clock,
        "credential": _credential,
        "socket": _socket,
    }
    failed = set()
    for name, check in checks.items():
        if "server" in failed or (name == "socket" and "credential" in failed):
            continue
        try:
            finding = Finding(name, True, check(client))
        except _Wrong as wrong:
            finding = Finding(name, False, str(wrong))
            failed.add(name)
        output.show(finding, "ok  " if finding.ok else "FAIL", f"{name:<10}", finding.text)
    return 1 if failed else 0


class _Wrong(Exception):
    """What is wrong, and what to do about it."""


def _get(client: Client, path: str) -> httpx.Response:
    try:
        return httpx.get(client.url + path, timeout=SECONDS)
    except httpx.HTTPError as error:
        raise _Wrong(f"{client.url} does not answer: {error}. Does it run? Is FANFARE_URL right?") from error


def _server(client: Client) -> str:
    status = _get(client, "/livez").status_code
    if status != 200:
        raise _Wrong(f"{client.url}/livez says {status}: something else is there, or in between.")
    return f"{client.url} answers"


def _ready(client: Client) -> str:
    reply = _get(client, "/readyz")
    if reply.status_code != 200 or '"ok"' not in reply.text:
        raise _Wrong(f"/readyz says {reply.status_code}: {reply.text[:500]}")
    return "the server has all that it needs"


def _clock(client: Client) -> str:
    reply = _get(client, "/livez")
    try:
        skew = time.time() - parsedate_to_datetime(reply.headers.get("date", "")).timestamp()
    except (ValueError, TypeError):
        return "the server does not say what time it is"
    if abs(skew) > SKEW_SECONDS:
        raise _Wrong(f"This clock is {skew:+.0f} s from the server's: tokens made here would not be good.")
    return "the clocks agree"


def _credential(client: Client) -> str:
    try:
        client.tokens.ticket()
    except FanfareError as error:
        hint = " Make a key by `manage.py apikey create NAME`." if error.status == 401 else ""
        raise _Wrong(f"{error}{hint}") from error
    return "FANFARE_KEY is good"


def _socket(client: Client) -> str:
    topics: list[str] = []
    try:
        with client.listen(topics) as events:
            event = next(events)
    except FanfareError as error:
        raise _Wrong(f"the handshake was refused: {error}") from error
    if isinstance(event, Disconnected):
        raise _Wrong(f"no WebSocket: {event.reason}. A proxy has to pass on `Upgrade` for /ws/.")
    assert isinstance(event, Connected)
    return "a WebSocket stands" + (f", as {event.user}" if event.user else "")
