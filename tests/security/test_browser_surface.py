"""What a browser, a proxy and a crowd may do to us. The checklist S-1 … S-30, and where each of it is tested:

S-1   origins of cookie handshakes    here; tests/accounts/test_credentials.py (the rule), tests/realtime/test_live.py
S-2   HSTS, secure cookies, deploy    here; tests/config/test_settings.py, test_proxies.py
S-3   no token in logs; tickets       tests/security/test_logs.py; tests/accounts/test_tickets.py
S-4   JWT                             tests/accounts/test_tokens.py, test_issuers.py
S-5   JWKS                            tests/accounts/test_jwks.py
S-6   every object, every action      tests/security/test_default_deny.py; tests/realtime/test_authorizers.py
S-7   no foreign ids                  tests/security/test_default_deny.py; tests/notifications/test_api.py (cursors)
S-8   mass assignment                 here; tests/notifications/test_api.py (unknown fields, sender)
S-9   closed replies                  tests/security/test_schema.py
S-10  default deny                    tests/security/test_default_deny.py
S-11  CORS                            tests/config/test_cors.py
S-12  CSRF                            here; tests/accounts/test_credentials.py
S-13  limits                          tests/realtime/test_limits.py, tests/accounts/test_throttles.py
S-14  addresses                       tests/config/test_proxies.py
S-15  XSS, CSP                        here; tests/demo/test_demo.py (in a browser)
S-16  SSRF                            tests/realtime/test_authorizers.py (the only outgoing calls so far)
S-17  signatures                      tests/accounts/test_signatures.py
S-18  encryption, S-19 queues         with sessions over SQS: not there yet
S-20  secrets                         tests/config/test_settings.py, tests/accounts/test_api_keys.py, test_logs.py here
S-21  tokens                          tests/accounts/test_views.py (made, listed, revoked), test_default_deny.py here
S-22  admin                           tests/accounts/test_operators.py; no password is ever set by us
S-23  log-out ends sockets            tests/realtime/test_control.py
S-24  pickle                          here
S-25  generic errors                  here; tests/config/test_api.py
S-26  logs                            tests/security/test_logs.py; tests/config/test_api.py
S-27  versions                        here
S-28  metrics                         tests/security/test_default_deny.py
S-29  races                           here; tests/notifications/test_accept.py, tests/accounts/test_operators.py
S-30  accounts apart in shared tables here; tests/notifications/test_api.py, tests/accounts/test_throttles.py
"""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Barrier
from typing import Any

import httpx
import pytest
from celery import Celery
from django.contrib.auth.models import User as OperatorRow
from django.db import connection
from django.test import Client
from kombu.exceptions import ContentDisallowed
from kombu.serialization import dumps, loads
from packaging.version import Version
from pytest_django import Settings
from websockets.exceptions import ConnectionClosed

from accounts import throttles, tickets, users
from accounts.models import AuditEntry, IdempotencyKey, Revocation, Token, User
from accounts.principals import SCOPES
from accounts.revocations import Reason
from config.celery import app as celery
from notifications.models import Message
from tests.realtime.sockets import dial
from tests.security.town import CANARY, bearer, principal, service, signed_in, user_token
from tests.servers import ROOT, Stack

ALLOWED = "https://app.example"
STRANGERS = [
    None,
    "null",
    "https://evil.example",
    "https://app.example.evil.example",
    "https://evil.example/app.example",
    "https://evil-app.example",
    "http://app.example",
    "https://app.example:8443",
    "https://app.example@evil.example",
    "HTTPS://APP.EXAMPLE",
    "file://",
    "chrome-extension://app.example",
]


# --- Origins and cookies (S-1, S-12) --------------------------------------------------------------


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"])
    with folder as path, Stack(Path(path) / "surface", ALLOWED_ORIGINS=ALLOWED, BATCH_MAX_BYTES="1000") as stack:
        stack.start_web()
        yield stack


@pytest.fixture(scope="module")
def session(stack: Stack) -> str:
    """A superuser's session key."""
    code = """
from django.contrib.auth.models import User
from django.test import Client
client = Client()
client.force_login(User.objects.create_superuser("boss"))
print(client.cookies["sessionid"].value)
"""
    return stack.python(code).strip()


def _handshake(stack: Stack, headers: dict[str, str]) -> int:
    """The close code of a handshake; 0 when it is welcomed."""

    async def run() -> int:
        async with dial(stack.web[0], welcomed=False, headers=headers, topics="user.bob") as socket:
            try:
                await socket.next("welcome")
            except ConnectionClosed:
                return socket.connection.close_code or -1
            return 0

    return asyncio.run(run())


@pytest.mark.parametrize("origin", STRANGERS)
def test_no_other_page_can_use_an_operators_session(stack: Stack, session: str, origin: str | None) -> None:
    headers = {"Cookie": f"sessionid={session}"} | ({"Origin": origin} if origin else {})
    assert _handshake(stack, headers) == 4501
    for path in ("/api/poll?wait=0&topics=user.bob", "/api/stream?topics=user.bob"):
        with httpx.stream("GET", stack.web[0].url + path, headers=headers, timeout=10) as reply:
            assert reply.status_code == 401, path
            assert "access-control-allow-origin" not in reply.headers
            assert "access-control-allow-credentials" not in reply.headers


def test_a_page_of_ours_and_an_allowed_one_can(stack: Stack, session: str) -> None:
    cookie = {"Cookie": f"sessionid={session}"}
    for headers in ({"Origin": ALLOWED}, {"Origin": stack.web[0].url}, {"Sec-Fetch-Site": "same-origin"}):
        assert _handshake(stack, cookie | headers) == 0
    for site in ("same-site", "cross-site", "none"):
        assert _handshake(stack, cookie | {"Sec-Fetch-Site": site}) == 4501


WRITES = [
    ("POST", "/api/notifications", {"to": {"user": "alice"}, "data": 1}),
    ("POST", "/api/notifications/batch", {"notifications": [{"to": {"user": "alice"}, "data": 1}]}),
    ("DELETE", "/api/notifications?key=x", None),
    ("PUT", "/api/users/alice", {"name": "x"}),
    ("DELETE", "/api/users/alice", None),
    ("POST", "/api/tokens", {"user": "alice"}),
    ("POST", "/api/tickets", None),
    ("DELETE", "/api/presence/alice/connections", None),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_another_page_cannot_write_with_an_operators_cookie(method: str, path: str, body: Any) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(OperatorRow.objects.create_superuser("boss"))
    users.see("alice", "acme", 1.0)
    text, before = json.dumps(body or {}), AuditEntry.objects.count()
    # As forms, which pages of others can send without asking, and as JSON.
    for content_type in ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        for headers in ({}, {"Origin": "https://evil.example"}, {"X-CSRFToken": "x" * 32}):
            reply: Any = client.generic(method, path, text, content_type=content_type, headers=headers)
            assert reply.status_code == 403, (content_type, headers, reply.content)
            assert reply.headers["Content-Type"] == "application/json"
    assert not Message.objects.exists()
    assert not Token.objects.exists()
    assert AuditEntry.objects.count() == before


@pytest.mark.django_db
def test_nobody_can_be_signed_in_by_another_page() -> None:
    OperatorRow.objects.create_superuser("boss", password=CANARY)
    client = Client(enforce_csrf_checks=True)
    reply: Any = client.post("/admin/login/", {"username": "boss", "password": CANARY})
    assert reply.status_code == 403
    assert "sessionid" not in client.cookies


def test_the_sessions_cookie_is_not_for_scripts_nor_for_other_sites(settings: Settings) -> None:
    assert settings.SESSION_COOKIE_HTTPONLY
    assert {settings.SESSION_COOKIE_SAMESITE, settings.CSRF_COOKIE_SAMESITE} == {"Lax"}


# --- Headers (S-2, S-15) --------------------------------------------------------------------------

PAGES = ["/admin/login/", "/api/docs", "/demo/", "/accounts/login/x", "/api/schema", "/nothing", "/api/nothing",
         "/api/notifications", "/api/token", "/livez", "/metrics", "/"]  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize("path", PAGES)
def test_every_reply_tells_browsers_to_be_strict(path: str) -> None:
    replies: list[Any] = [Client().get(path), signed_in("boss", is_staff=True, is_superuser=True).get(path)]
    for reply in [*replies, Client().post(path)]:
        policy = dict(part.strip().partition(" ")[::2] for part in reply.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["object-src"] == policy["base-uri"] == "'none'"
        assert "unsafe" not in reply.headers["Content-Security-Policy"]
        assert "*" not in reply.headers["Content-Security-Policy"]
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["X-Frame-Options"] == "DENY"
        assert reply.headers["Referrer-Policy"] == "same-origin"
        assert reply.headers["Cross-Origin-Opener-Policy"] == "same-origin"


@pytest.mark.django_db
@pytest.mark.parametrize("path", ["/admin/login/", "/api/docs", "/demo/", "/accounts/login/x", "/admin/"])
def test_no_page_has_a_script_or_style_in_its_text(path: str) -> None:
    reply: Any = signed_in("boss", is_staff=True, is_superuser=True).get(path)
    text = reply.content.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)", text)
    assert not re.search(r"\sstyle=|\son\w+=|javascript:", text)
    assert "<style" not in text or path == "/api/docs", "Swagger's own, which the policy keeps out."


@pytest.mark.django_db
def test_no_cache_keeps_what_is_somebodys() -> None:
    client, alice = bearer(service(SCOPES)), bearer(user_token("alice", "acme"))
    for reply in (
        client.get("/api/token?user=alice"),
        client.post("/api/tokens", {"user": "alice"}, content_type="application/json"),
        client.post("/api/tickets"),
        alice.get("/api/notifications"),
        alice.get("/api/users/alice"),
        Client().get("/api/notifications"),
    ):
        assert "no-store" in reply.headers["Cache-Control"]


def test_what_is_answered_before_django_is_not_sniffed_nor_kept_either(stack: Stack) -> None:
    url, token = stack.web[0].url, stack.token("alice", "acme")
    headers = {"Authorization": f"Bearer {token}"}
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for reply in (
        httpx.get(f"{url}/api/poll?wait=0", headers=headers),
        httpx.get(f"{url}/api/poll?wait=x", headers=headers),
        httpx.get(f"{url}/api/stream"),
        httpx.options(f"{url}/api/notifications", headers=preflight),
        httpx.post(f"{url}/api/notifications", content=b" " * 1001),
    ):
        assert reply.headers["X-Content-Type-Options"] == "nosniff", (reply.request.url, reply.status_code)
    with httpx.stream("GET", f"{url}/api/stream", headers=headers) as reply:
        assert reply.headers["Cache-Control"] == "no-store"


ASK_IN_PRODUCTION = """
import django; django.setup()
from django.test import Client
for client in (Client(), Client(headers={"x-forwarded-proto": "https"})):
    for secure in (False, True):
        reply = client.get("/api/docs", secure=secure, headers={"host": "fanfare.example"})
        print(reply.status_code, reply.headers.get("Strict-Transport-Security"), reply.headers.get("Location"))
from django.conf import settings
print(settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE, settings.SESSION_COOKIE_HTTPONLY, settings.DEBUG)
"""


@pytest.mark.any_database
def test_in_production_everything_is_over_tls_and_stays_so(tmp_path: Path) -> None:
    """That `check --deploy` has nothing to say is in tests/config/test_settings.py."""
    environment = {
        "PATH": os.environ["PATH"],
        "FANFARE_HOME": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    environment |= {"PRODUCTION": "1", "ALLOWED_HOSTS": "fanfare.example"}
    command = [sys.executable, "-W", "ignore", "-c", ASK_IN_PRODUCTION]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    *replies, cookies = done.stdout.splitlines()
    away = "301 None https://fanfare.example/api/docs"
    strict = "200 max-age=31536000; includeSubDomains; preload None"
    assert replies == [away, strict, away, strict]  # A header that no trusted proxy has sent counts for nothing.
    assert cookies == "True True True False"


# --- Bodies that reach further than they should (S-8, S-24, S-25) ---------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("method", "path", "body", "model"),
    [
        ("POST", "/api/notifications", {"to": {"user": "alice"}, "data": 1}, Message),
        ("PUT", "/api/users/alice", {}, User),
        ("POST", "/api/tokens", {"user": "alice"}, Token),
    ],
)
def test_no_field_is_set_that_is_not_the_callers_to_set(method: str, path: str, body: Any, model: Any) -> None:
    client = bearer(service(SCOPES))
    taken = {"account", "name", "attributes", "user", "type", "key", "send_at", "data"}
    for field in {field.name for field in model._meta.get_fields()} - taken | {"scoped", "is_staff", "created_by"}:
        if field in ("subscribe", "publish"):
            continue
        reply: Any = client.generic(method, path, json.dumps({**body, field: 1}), content_type="application/json")
        assert reply.status_code == 400, (field, reply.content)
    assert not model.objects.exists()


def test_pickles_are_neither_sent_nor_taken(settings: Settings) -> None:
    assert list(celery.conf.accept_content) == ["json"]
    assert (celery.conf.task_serializer, celery.conf.result_serializer) == ("json", "json")
    assert celery.conf.event_serializer == "json"
    assert set(celery.conf.result_accept_content or ["json"]) == {"json"}
    content_type, encoding, body = dumps({"a": 1}, serializer="pickle")
    with pytest.raises(ContentDisallowed):
        loads(body, content_type, encoding, accept=set(celery.conf.accept_content))
    assert isinstance(celery, Celery)
    assert settings.SESSION_SERIALIZER.endswith("JSONSerializer")
    source = "".join(path.read_text() for room in ("accounts", "config", "notifications", "realtime", "demo")
                     for path in (ROOT / room).rglob("*.py"))  # fmt: skip
    assert not re.search(r"\bpickle\b|\bmarshal\.|\byaml\.load\(|\beval\(|\bexec\(|shell=True", source)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "path", ["/nothing", "/api/nothing", "/admin/x/", "/demo/x", "/accounts/login/", "/accounts/login/x"]
)
def test_an_error_page_says_nothing_of_the_inside(path: str, settings: Settings) -> None:
    assert not settings.DEBUG
    for client in (Client(raise_request_exception=False), bearer("ff_x_y")):
        for host in ("testserver", "evil.example"):
            reply: Any = client.get(path, headers={"host": host})
            text = reply.content.decode()
            for leak in ("Traceback", "urlpatterns", "config.urls", "DEBUG", "SECRET_KEY", "django", "site-packages"):
                assert leak not in text.replace("/django", ""), (path, host)
            assert reply.status_code < 500


# --- Versions (S-27) ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("package", "floor"),
    [
        ("daphne", "4.2.2"),
        ("autobahn", "26.7.1"),
        ("PyJWT", "2.13"),
        ("Django", "5.2"),
        ("uvicorn", "0.54"),
        ("kombu", "5.7"),
    ],
)
def test_what_is_installed_and_pinned_has_its_known_holes_mended(package: str, floor: str) -> None:
    assert Version(version(package)) >= Version(floor)
    pins = (ROOT / "requirements.txt").read_text().lower()
    (pinned,) = re.findall(rf"^{package.lower()}==(\S+)", pins, re.MULTILINE)
    assert Version(pinned) >= Version(floor)


# --- A hundred at once (S-29) ---------------------------------------------------------------------

CROWD = 100


def at_once(work: Callable[[int], Any], count: int = CROWD, threads: int = 8) -> list[Any]:
    """Does the same so many times, as many at the same moment as a process has at work (REQUESTS_AT_ONCE)."""
    gate = Barrier(threads)

    def one(number: int) -> Any:
        if number < threads:
            gate.wait(30)
        try:
            return work(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(count)))


@pytest.fixture
def unthrottled(settings: Settings) -> None:
    settings.RATE_SERVICE = ""


race = pytest.mark.django_db(transaction=True)


@race
def test_a_ticket_lets_one_of_a_hundred_in() -> None:
    text, _ = tickets.issue(principal(user_token("alice", "acme")))
    found = at_once(lambda _: tickets.redeem(text))
    assert sum(one is not None for one in found) == 1


@race
def test_a_hundred_equal_revocations_are_one() -> None:
    key = service(SCOPES)
    token = bearer(key).post("/api/tokens", {"user": "alice"}, content_type="application/json").json()
    replies = at_once(lambda _: bearer(key).delete(f"/api/tokens/{token['id']}").status_code)
    assert set(replies) == {204}
    assert Revocation.objects.filter(subject=f"token:{token['id']}").count() == 1
    assert AuditEntry.objects.filter(action="token.revoked").count() == 1


@race
@pytest.mark.usefixtures("unthrottled")
def test_of_a_hundred_who_recall_a_message_each_message_is_recalled_once() -> None:
    key = service(SCOPES)
    for _ in range(5):
        body = {"to": {"user": "alice"}, "data": 1, "key": "order-1"}
        assert bearer(key).post("/api/notifications", body, content_type="application/json").status_code == 202
    replies = at_once(lambda _: bearer(key).delete("/api/notifications?key=order-1"))
    assert {reply.status_code for reply in replies} == {200}
    recalled = Counter(one for reply in replies for one in reply.json()["recalled"])
    assert len(recalled) == 5
    assert set(recalled.values()) == {1}


@race
@pytest.mark.usefixtures("unthrottled")
def test_a_hundred_who_make_and_move_one_user_leave_one_user_in_one_account() -> None:
    key = service(SCOPES)

    def put(number: int) -> int:
        body = {"account": f"account-{number % 3}", "name": str(number)}
        return bearer(key).put("/api/users/eve", body, content_type="application/json").status_code

    assert set(at_once(put)) == {200}
    row = User.objects.get(pk="eve")
    last = AuditEntry.objects.filter(subject="user:eve").order_by("-pk").first()
    assert row.account_id == f"account-{int(row.name) % 3}", "Two changes were mixed."
    assert last is not None
    assert AuditEntry.objects.filter(subject="user:eve").count() == CROWD
    assert Revocation.objects.filter(subject="user:eve", reason=Reason.MOVED).count() <= CROWD


@race
@pytest.mark.usefixtures("unthrottled")
def test_of_a_hundred_who_erase_a_user_one_does_it() -> None:
    key = service(SCOPES)
    bearer(key).put("/api/users/eve", {"account": "acme"}, content_type="application/json")
    replies = Counter(at_once(lambda _: bearer(key).delete("/api/users/eve").status_code))
    assert replies == {204: 1, 404: CROWD - 1}
    assert not User.objects.filter(pk="eve").exists()


@race
@pytest.mark.usefixtures("unthrottled")
def test_one_idempotency_key_of_two_services_a_hundred_times_at_once_is_two_messages() -> None:
    keys = [service(SCOPES), service(SCOPES)]
    body = {"to": {"user": "alice"}, "data": 1}

    def post(number: int) -> tuple[int, Any]:
        headers = {"Idempotency-Key": "order-1"}
        client = bearer(keys[number % 2])
        reply = client.post("/api/notifications", body, content_type="application/json", headers=headers)
        return number % 2, (reply.status_code, reply.json().get("id"))

    found = set(at_once(post))
    assert {status for _, (status, _) in found} == {202}
    assert len(found) == 2
    assert Message.objects.count() == IdempotencyKey.objects.count() == 2


# --- Accounts apart, in tables that they share (S-30) ---------------------------------------------


@pytest.mark.django_db
def test_nobody_gets_a_reply_that_was_kept_for_another_caller() -> None:
    """Whatever callers may be named: kinds and ids cannot be shifted into one another."""
    rooms = {"publish": ["topic.room"]}
    callers = [
        user_token("x", "acme", **rooms),
        user_token("user:x", "globex", **rooms),
        user_token("token:x", "globex", **rooms),
        user_token("X", "globex", **rooms),
        user_token("x", "acme", scoped=True, **rooms),
        user_token("x", "acme", scoped=True, **rooms),
        service(["notifications:write"]),
        service(["notifications:write"]),
    ]
    found = []
    for text in callers:
        headers = {"Idempotency-Key": "order-1"}
        body = {"to": {"topic": "room"}, "data": 1}
        reply = bearer(text).post("/api/notifications", body, content_type="application/json", headers=headers)
        assert reply.status_code == 202
        assert "Idempotent-Replayed" not in reply.headers
        found.append(reply.json()["id"])
    assert len(set(found)) == len({str(principal(text)) for text in callers}) == len(callers)


@pytest.mark.django_db
def test_nobody_uses_up_the_rate_of_somebody_of_another_name(settings: Settings) -> None:
    settings.RATE_USER = settings.RATE_SERVICE = "1/h"
    prefix = service([])
    names = ["r-x", "user:r-x", "service:r-x", "address:192.0.2.9", "R-X", f"service:{principal(prefix).id}", "r-x "]
    for text in [*(user_token(name, "acme") for name in names if name.strip() == name), prefix]:
        assert bearer(text).get("/api/tokens").status_code in (200, 403)
        assert bearer(text).get("/api/tokens").status_code == 429
    assert throttles.is_counting()
