"""No credential ends up where it does not belong: planted ones are used in every way, well and badly, over HTTP,
WebSocket, event stream and poll, and then looked for in all output, metrics and replies. With LOG_LEVEL=DEBUG.
"""

import asyncio
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from websockets.exceptions import WebSocketException

from tests.realtime.raw import Raw
from tests.realtime.sockets import dial
from tests.security.town import CANARY
from tests.servers import Stack, Web

pytestmark = pytest.mark.any_database

SERVERS = ["uvicorn", "plain-uvicorn"]
TIMEOUT = 15
OPERATOR = """
from django.contrib.auth.models import User
from django.test import Client
from accounts.operators import login_link
client = Client()
for name in ("boss", "other"):
    User.objects.create_superuser(name, password="pw-CANARY")
client.force_login(User.objects.get(username="boss"))
print(client.cookies["sessionid"].value)
print(login_link("boss", "").rpartition("/")[2])
print(login_link("other", "").rpartition("/")[2])
""".replace("CANARY", CANARY)


class Planted:
    """Every kind of credential. Each is looked for as a whole and by the part that makes it one."""

    def __init__(self, stack: Stack) -> None:
        self.key = stack.api_key
        self.jwt = stack.token("alice", "acme", publish=["topic.room"])
        self.expired = stack.token("alice", "acme", ttl=-5)
        with stack.client() as client:
            self.own = client.post("/api/tokens", json={"user": "alice"}).json()["token"]
            self.ticket = client.post("/api/tickets").json()["ticket"]
            self.used_ticket = client.post("/api/tickets").json()["ticket"]
            self.listening = client.get("/api/token?user=alice").json()["token"]
        self.session, self.link, self.used_link = stack.python(OPERATOR).split()
        secrets = [(stack.home / name).read_text() for name in ("secret_key", "token_signing_key")]
        texts = list(vars(self).values())
        # Whoever has a signature has the token; an expired one's was good once.
        parts = [re.split(r"[.:]", text)[-1] for text in texts] + [self.key.rpartition("_")[2]]
        self.forbidden = {*texts, *parts, *secrets, f"pw-{CANARY}"}
        assert all(len(text) >= 10 for text in self.forbidden)

    @property
    def bearers(self) -> list[str]:
        good = [self.key, self.jwt, self.own, self.listening]
        return [*good, self.expired, *(text[:-2] + "xx" for text in good)]

    def found_in(self, text: str) -> list[str]:
        return [secret for secret in self.forbidden if secret in text]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"])
    with folder as path, Stack(Path(path) / "logs", LOG_LEVEL="DEBUG") as stack:
        for server in SERVERS:
            stack.start_web(server=server)
        stack.start_worker()
        stack.start_beat()
        yield stack


@pytest.fixture(scope="module")
def planted(stack: Stack) -> Planted:
    return Planted(stack)


def http(web: Web, planted: Planted) -> Iterator[httpx.Response]:
    """Good and bad requests with each credential in each place."""
    with httpx.Client(base_url=web.url, timeout=TIMEOUT) as client:
        for text in planted.bearers:
            headers = {"Authorization": f"Bearer {text}"}
            for path in ("/api/notifications?user=alice", "/api/users/alice", "/api/nothing", "/metrics", "/admin/"):
                yield client.get(path, headers=headers)
            yield client.post("/api/notifications", headers=headers, content=b"{")
            yield client.post(
                "/api/notifications", headers=headers, json={"to": {"user": "bob"}, "data": text, "ttl": 0}
            )
            yield client.get("/api/notifications", headers={"Authorization": text})
            yield client.get("/api/notifications", headers={"Authorization": f"Basic {text}"})
            yield client.get("/api/notifications", headers={**headers, "X-Request-Id": text})
            for name in ("authorization", "ticket", "access_token", "token"):
                yield client.get(f"/api/poll?wait=0&{name}={quote(text)}")
                yield client.get(f"/api/notifications?user=a&{name}={quote(text)}")
            yield client.get(f"/api/poll?wait=0&topics=control&authorization={quote(text)}")
            yield client.get("/api/poll?wait=x", headers=headers)
            for query in (f"authorization={quote(text)}", "topics=control"):
                with client.stream("GET", f"/api/stream?{query}", headers=headers) as stream:
                    if stream.status_code != 200:
                        stream.read()
                        yield stream
        cookies = {"Cookie": f"sessionid={planted.session}"}
        for path in ("/admin/", "/api/audit", "/api/nothing", "/metrics", "/api/poll?wait=0", "/admin/auth/user/999/"):
            for origin in ({}, {"Origin": web.url}, {"Origin": "https://evil.example"}):
                yield client.get(path, headers={**cookies, **origin})
        yield client.post("/api/tickets", headers=cookies)
        for link in (planted.used_link, planted.used_link, planted.used_link[:-1] + "x", f"{planted.link}x"):
            yield client.get(f"/accounts/login/{link}")
        yield client.post("/admin/login/", data={"username": "boss", "password": f"pw-{CANARY}"})


async def sockets(web: Web, planted: Planted) -> None:
    """The same by handshake and by frame."""
    for text in [*planted.bearers, planted.ticket, planted.used_ticket, planted.used_ticket]:
        ways: list[dict[str, Any]] = [
            {"token": text},
            {"query": {"authorization": text}},
            {"query": {"ticket": text}},
            {"subprotocols": ["fanfare.v1", f"bearer.{text}"]},
        ]
        for way in ways:
            with suppress(WebSocketException, TimeoutError):
                async with dial(web, welcomed=False, **way) as socket:
                    await socket.next("welcome", seconds=5)
                    await socket.send(action="refresh", token=text)
                    await socket.send(action="subscribe", topic="topic.room", token=text)
                    await socket.send(action="publish", topic="user.bob", data=text)
                    await socket.send(action="publish", topic="topic.room", data="x", token=text)
                    await socket.ask("pong", action="ping")
    for origin in (web.url, "https://evil.example"):
        with suppress(WebSocketException, TimeoutError):
            headers = {"Cookie": f"sessionid={planted.session}", "Origin": origin}
            async with dial(web, welcomed=False, headers=headers) as socket:
                await socket.next("welcome", seconds=5)


@pytest.mark.parametrize("server", SERVERS)
def test_no_credential_is_in_any_output_metric_or_refusal(stack: Stack, planted: Planted, server: str) -> None:
    web = next(web for web in stack.web if web.server == server)
    statuses = set()
    for reply in http(web, planted):
        statuses.add(reply.status_code)
        assert reply.status_code < 500, reply.text
        if reply.status_code >= 400:
            assert not planted.found_in(reply.text), (str(reply.request.url), reply.text)
    assert {200, 302, 400, 401, 403, 404} <= statuses
    asyncio.run(sockets(web, planted))
    for text in (planted.key, planted.jwt):  # Requests that are none.
        with Raw(web.port) as raw:
            raw.socket.sendall(f"GET /api/poll?authorization={text} NONSENSE\r\nAuthorization: {text}\r\n\r\n".encode())
            with suppress(OSError, AssertionError):
                raw.socket.recv(4096)
    metrics = httpx.get(f"{web.url}/metrics", timeout=TIMEOUT).text
    assert "fanfare_" in metrics
    assert not planted.found_in(metrics)
    logs = stack.logs()
    assert '"level": "debug"' in logs, "The test would not see what DEBUG writes."
    found = planted.found_in(logs)
    assert not found, [line[:600] for line in logs.splitlines() if any(secret in line for secret in found)][:5]


BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029", "\x1b[2J", "\0"]
FORGED = '{"level": "critical", "message": "forged", "logger": "root", "timestamp": "now"}'


def test_what_callers_name_cannot_break_a_log_line(stack: Stack) -> None:
    web = stack.web[0]
    with stack.client() as client:
        for line_break in BREAKS:
            name = f"a{line_break}{FORGED}"
            for path in ("/api/users/{}", "/api/topics/topic.{}/messages", "/{}", "/api/{}", "/accounts/login/{}"):
                assert client.get(path.format(quote(name, safe=""))).status_code < 500
            assert client.put(f"/api/users/{quote(name, safe='')}", json={"name": "x"}).status_code in (400, 404)
            assert client.put("/api/users/carl", json={"name": name}).status_code == 400
            for body in (
                {"to": {"user": name}, "data": 1},
                {"to": {"topic": name}, "data": 1},
                {"to": {"user": "alice"}, "data": 1, "type": name},
                {"to": {"user": "alice"}, "data": 1, "key": name},
            ):
                assert client.post("/api/notifications", json=body).status_code == 400
            assert client.post("/api/notifications", json={"to": {"user": "alice"}, "data": name}).status_code in (
                202,
                400,
            )
            client.get("/api/poll", params={"wait": "0", "topics": f"topic.{name}", "since": name})
        forged = stack.token(f"a\n{FORGED}")
        assert client.get("/api/notifications", headers={"Authorization": f"Bearer {forged}"}).status_code == 401
    with Raw(web.port) as raw:
        raw.socket.sendall(f"GET /livez HTTP/1.1\r\nHost: x\r\nX-Request-Id: a\n{FORGED}\r\n\r\n".encode())
        with suppress(OSError):
            raw.socket.recv(4096)

    def is_whole(line: str) -> bool:
        return {"message", "level", "timestamp", "logger"} <= set(json.loads(line))

    for number, _ in enumerate(SERVERS):
        # Split at every character that a reader of logs may take for a new line.
        lines = (stack.folder / f"web{number}.log").read_text().splitlines()
        assert lines
        assert all(map(is_whole, lines))
        assert not any(json.loads(line)["message"] == "forged" for line in lines)
        assert "\x1b" not in "".join(lines)


def test_a_session_cookie_is_cut_out_of_what_is_logged_too() -> None:
    from config.logging import redact

    for said in (
        f"Cookie: sessionid={CANARY}; a=b",
        f"{{'sessionid': '{CANARY}'}}",
        f"csrftoken={CANARY}",
        f"session_key = '{CANARY}'",
    ):
        assert CANARY not in redact(said), said
