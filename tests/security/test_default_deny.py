"""What nobody has allowed is denied: every route, action and topic, by every kind of caller, against another account.

The tables here say what is public, what a caller may do with their own, and which scope opens the rest. The routes,
actions and kinds of topics themselves are enumerated: one that is new and in no table fails the test.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from django.conf import LazySettings
from django.contrib.admindocs.views import simplify_regex
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.permissions import IsAuthenticated
from rest_framework.views import APIView

from accounts.principals import SCOPES
from config.asgi import waiting
from leaderboards.models import Window
from notifications.models import Topic as TopicRow
from realtime.authorizers import refusals_now
from realtime.protocol import ACTIONS
from tests.realtime.sockets import dial
from tests.security.town import (
    BOBS_TOPICS,
    CANARY,
    CLAIM,
    GLOBEX_BOARD,
    Globex,
    bearer,
    credentials,
    principal,
    service,
    signed_in,
    strangers,
    user_token,
)
from tests.servers import Stack

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
DENIED = {401, 403, 404, 405}

# What anybody may open; none of it has data of anybody.
PUBLIC = {
    "/": "redirects to the docs or the demo",
    "/livez": "probe",
    "/readyz": "probe",
    "/accounts/login/<token>": "the token is the credential",
    "/api/schema": "the schema",
    "/api/docs": "the docs",
    "/api/<rest>": "404",
    "/cache/<rest>": "404",
    "/topics/<rest>": "404",
    "/api/ingest/<source>": "the source's signature is the credential",
    "/api/ingest/<source>/sns": "the signature of SNS is the credential, or a password in the endpoint's URL",
    "/demo/": "in development only",
    "/demo/token": "in development only: the demo's own two users",
    "/demo/writethrough/": "in development only",
    "/demo/writethrough/weather": "in development only: the demo's own table",
}
# What a leaderboard lets everybody read whose `read` is public: tests/leaderboards/test_api.py has who may when.
OPEN_TO_READ = {f"/api/leaderboards/<board>{rest}" for rest in ("", "/windows", "/<name>")}
# For loopback and admin:read.
METRICS = "/metrics"
# What opens a route to backends; None: the caller's own things only.
NEEDS: dict[tuple[str, str], str | None] = {
    ("GET", "/api/users/<user>"): "users:read",
    ("PUT", "/api/users/<user>"): "users:write",
    ("DELETE", "/api/users/<user>"): "users:write",
    ("GET", "/api/token"): "tokens:write",
    ("DELETE", "/api/token"): None,
    ("GET", "/api/tokens"): "tokens:read",
    ("POST", "/api/tokens"): "tokens:write",
    ("DELETE", "/api/tokens/<token_id>"): "tokens:write",
    ("POST", "/api/tickets"): None,
    ("GET", "/api/audit"): "admin:read",
    ("GET", "/api/connections"): "presence:read",
    ("DELETE", "/api/connections/<connection>"): "presence:write",
    ("DELETE", "/api/presence/<user>/connections"): "presence:write",
    ("GET", "/api/presence/rooms/<room>"): "presence:read",
    ("GET", "/api/presence"): "presence:read",
    ("POST", "/api/presence"): None,
    ("POST", "/api/presence/query"): "presence:read",
    ("GET", "/api/presence/<user>"): "presence:read",
    ("PUT", "/api/presence/<user>"): "presence:write",
    ("GET", "/api/presence/<user>/history"): "presence:read",
    ("GET", "/api/leaderboards"): "leaderboards:read",
    ("GET", "/api/leaderboards/<board>"): "leaderboards:read",
    ("POST", "/api/leaderboards/<board>"): "leaderboards:write",
    ("PUT", "/api/leaderboards/<board>"): "leaderboards:write",
    ("DELETE", "/api/leaderboards/<board>"): "leaderboards:write",
    ("GET", "/api/leaderboards/<board>/windows"): "leaderboards:read",
    ("POST", "/api/leaderboards/<board>/windows"): "leaderboards:write",
    ("GET", "/api/leaderboards/<board>/<name>"): "leaderboards:read",
    ("POST", "/api/leaderboards/<board>/<name>"): "leaderboards:write",
    ("DELETE", "/api/leaderboards/<board>/<name>"): "leaderboards:write",
    ("POST", "/api/leaderboards/<board>/<name>/hide"): "leaderboards:write",
    ("POST", "/api/leaderboards/<board>/<name>/unhide"): "leaderboards:write",
    ("GET", "/api/sessions"): "sessions:read",
    ("POST", "/api/sessions"): "sessions:write",
    ("GET", "/api/sessions/<session>"): "sessions:read",
    ("DELETE", "/api/sessions/<session>"): "sessions:write",
    ("POST", "/api/sessions/<session>/renew"): "sessions:write",
    ("POST", "/api/sessions/<session>/ack"): "sessions:write",
    ("POST", "/api/events"): "events:write",
    ("GET", "/cache/<cache>"): "cache:read",
    ("PUT", "/cache/<cache>"): "cache:write",
    ("DELETE", "/cache/<cache>"): "cache:write",
    ("POST", "/topics/<cache>/<topic>"): "notifications:write",
    ("GET", "/api/notifications"): "notifications:read",
    ("POST", "/api/notifications"): "notifications:write",
    ("DELETE", "/api/notifications"): "notifications:write",
    ("POST", "/api/notifications/batch"): "notifications:write",
    ("GET", "/api/notifications/<message_id>"): "notifications:read",
    ("DELETE", "/api/notifications/<message_id>"): "notifications:write",
    ("GET", "/api/topics/<topic>/messages"): "notifications:read",
    ("GET", "/api/inbox"): "inbox:read",
    ("POST", "/api/inbox/<deed>"): "inbox:write",
    ("POST", "/api/inbox/ack"): "inbox:write",
    ("GET", "/api/users/<user>/preferences"): "users:read",
    ("PUT", "/api/users/<user>/preferences"): "users:write",
    ("DELETE", "/api/users/<user>/preferences"): "users:write",
    ("GET", "/api/tasks"): "tasks:read",
    ("POST", "/api/tasks"): "tasks:write",
    ("GET", "/api/tasks/<task_id>"): "tasks:read",
    ("DELETE", "/api/tasks/<task_id>"): "tasks:write",
    ("POST", "/api/tasks/<task_id>/retry"): "tasks:write",
    ("POST", "/api/tasks/<task_id>/progress"): "tasks:write",
    ("POST", "/api/tasks/<task_id>/done"): "tasks:write",
    ("POST", "/api/tasks/<task_id>/failed"): "tasks:write",
    ("GET", "/api/destinations"): "deliveries:read",
    ("POST", "/api/destinations"): "deliveries:write",
    ("GET", "/api/destinations/<destination_id>"): "deliveries:read",
    ("PATCH", "/api/destinations/<destination_id>"): "deliveries:write",
    ("DELETE", "/api/destinations/<destination_id>"): "deliveries:write",
    ("POST", "/api/destinations/<destination_id>/rotate-secret"): "deliveries:write",
    ("GET", "/api/deliveries"): "deliveries:read",
    ("POST", "/api/deliveries/redrive"): "deliveries:write",
    ("POST", "/api/client-messages/ack"): "deliveries:write",
}
# What a caller may do with what is their own: it succeeds, and shows and changes nothing of bob's.
OWN = {
    ("GET", "/api/tokens"),
    ("POST", "/api/tickets"),
    ("DELETE", "/api/token"),
    ("POST", "/api/presence"),
    ("GET", "/api/connections"),
    ("GET", "/api/sessions"),
}
# What has no place for a text of bob's: that it shows anything, its own tests see.
WITHOUT_TEXTS = {"/api/token", "/api/presence/<user>/history", "/api/leaderboards/<board>/windows"}
QUERIES: dict[tuple[str, str], list[str]] = {
    ("GET", "/cache/<cache>"): [f"key={CANARY}"],
    ("PUT", "/cache/<cache>"): [f"key={CANARY}&ttl_seconds=60"],
    ("DELETE", "/cache/<cache>"): [f"key={CANARY}"],
    ("GET", "/api/notifications"): ["user=bob", *(f"topic={topic}" for topic in BOBS_TOPICS)],
    ("DELETE", "/api/notifications"): [f"key={CANARY}", f"key={CANARY}&user=bob"],
    ("GET", "/api/token"): ["user=bob"],
    ("GET", "/api/tokens"): ["user=bob"],
    ("GET", "/api/inbox"): ["user=bob", "user=bob&archived=1"],
    ("GET", "/api/tasks"): ["user=bob", "user=bob&state=failed"],
    ("GET", "/api/presence"): ["account=globex"],
    ("GET", "/api/connections"): ["user=bob", "account=globex"],
    ("GET", "/api/sessions"): ["", "user=bob", "account=globex"],
    ("GET", "/api/leaderboards/<board>"): ["", "around=bob", "names=bob", "minScore=0&metadata=1", "window=1"],
    ("GET", "/api/leaderboards/<board>/<name>"): ["", "metadata=1"],
}
TO_BOB: list[dict[str, Any]] = [
    {"to": to, "data": 1}
    for to in (
        {"user": "bob"},
        {"users": ["bob"]},
        {"account": "globex"},
        {"session": "bobs-tab"},
        {"topic": "globex-room"},
        {"all": True},
    )
]
BODIES: dict[tuple[str, str], list[Any]] = {
    ("POST", "/api/events"): [
        *({"detail-type": "notify", "detail": body} for body in TO_BOB),
        {"detail-type": "cacheDelete", "detail": {"cacheName": "default", "key": CANARY}},
        {"Entries": [{"DetailType": "notify", "Detail": json.dumps(TO_BOB[0])}]},
    ],
    ("POST", "/api/sessions"): [
        {"user": "bob"},
        {"user": "bob", "account": "globex", "session": "bobs-tab"},
        {"account": "globex"},
    ],
    ("POST", "/api/sessions/<session>/ack"): [{"receipts": ["<receipt>"]}],
    ("POST", "/api/notifications"): TO_BOB,
    ("POST", "/api/notifications/batch"): [{"notifications": TO_BOB}],
    ("POST", "/api/tokens"): [
        {"user": "bob"},
        {"user": "bob", "topics": ["user.bob"]},
        {"topics": ["account.globex"]},
        {"topics": ["*"], "allow": ["subscribe", "publish"]},
    ],
    ("PUT", "/api/users/<user>"): [{"name": "mine"}, {"account": "acme"}],
    ("POST", "/api/presence"): [{"text": "mine"}],
    ("POST", "/api/presence/query"): [{"users": ["bob"]}, {"users": ["alice", "bob"]}],
    ("PUT", "/api/presence/<user>"): [{"text": "mine"}, {"availability": "invisible"}],
    ("POST", "/api/leaderboards/<board>"): [{"scores": [{"name": "bob", "score": 99}]}],
    ("PUT", "/api/leaderboards/<board>"): [{"read": "public"}, {"submit": "self"}],
    ("POST", "/api/leaderboards/<board>/<name>"): [{"score": 99}],
    ("POST", "/api/inbox/<deed>"): [{"user": "bob", "all": True}, {"user": "bob", "ids": ["<message_id>"]}],
    ("POST", "/api/inbox/ack"): [{"user": "bob", "ids": ["<message_id>"]}],
    ("PUT", "/api/users/<user>/preferences"): [{CANARY: "off"}],
    ("POST", "/api/tasks"): [{"user": "bob", "data": "x"}],
    ("POST", "/api/tasks/<task_id>/progress"): [{"claim": CLAIM, "progress": 0.5}],
    ("POST", "/api/tasks/<task_id>/done"): [{"claim": CLAIM, "result": 1}],
    ("POST", "/api/tasks/<task_id>/failed"): [{"claim": CLAIM, "error": "x"}],
    ("POST", "/api/destinations"): [{"name": "mine", "kind": "table"}],
    ("PATCH", "/api/destinations/<destination_id>"): [{"enabled": False}, {"address": "https://mine.example.com/"}],
    ("POST", "/api/deliveries/redrive"): [{"ids": ["<delivery_id>"]}, {"destination": "<destination_id>"}],
    ("POST", "/api/client-messages/ack"): [{"receipts": ["<receipt>"]}],
}
# The admin's pages that any staff may open: none shows a model's data.
STAFF_PAGES = {"", "login/", "logout/", "password_change/", "password_change/done/", "jsi18n/"}


@dataclass(frozen=True)
class Route:
    path: str  # With its parameters as <name>.
    callback: Any

    @property
    def methods(self) -> list[str]:
        view = getattr(self.callback, "cls", None)
        return [name.upper() for name in APIView.http_method_names if hasattr(view, name) and name != "options"]


def _walk(patterns: list[Any], start: str = "/") -> Iterator[Route]:
    for pattern in patterns:
        own = simplify_regex(str(pattern.pattern)).lstrip("/")
        path = start + re.sub(r"<\w+:(\w+)>", r"<\1>", own)
        if isinstance(pattern, URLResolver):
            yield from _walk(pattern.url_patterns, path)
        else:
            assert isinstance(pattern, URLPattern)
            yield Route(path, pattern.callback)


ROUTES = list(_walk(get_resolver().url_patterns))
MOMENTO = ("/cache/", "/topics/")  # Their keys come as Momento's clients send them.
API = [route for route in ROUTES if route.path.startswith(("/api/", *MOMENTO)) and route.path not in PUBLIC]
ADMIN = [route for route in ROUTES if route.path.startswith("/admin/")]


def filled(path: str, globex: Globex) -> list[str]:
    """The path with what is bob's in its parameters. A parameter that is new is a KeyError: say what it may be."""
    values: dict[str, list[str]] = {
        "user": ["bob"],
        "message_id": [globex.message],
        "token_id": [globex.token],
        "connection": [globex.connection],
        "task_id": globex.tasks,
        "destination_id": [globex.destination],
        "topic": [*BOBS_TOPICS, "session.bobs-tab", "control", "globex-room"],
        "cache": ["default"],
        "room": ["globex-room"],
        "session": ["bobs-tab"],
        "board": [GLOBEX_BOARD],
        "pk": [str(Window.objects.get().pk)],
        "name": ["bob"],
        "object_id": [globex.message, "1", "bob", str(TopicRow.objects.get(name="user.bob").pk)],
        "content_type_id": ["1"],
        "app_label": ["notifications", "accounts", "auth"],
        "url": ["nothing"],
        "deed": ["read", "seen", "archive", "unread"],
        "id": ["1"],
    }
    names = re.findall(r"<(\w+)>", path)
    found = []
    for chosen in product(*(values[name] for name in names)):
        one = path
        for name, value in zip(names, chosen, strict=True):
            one = one.replace(f"<{name}>", quote(value, safe=""))
        found.append(one)
    return found


def attempts(method: str, route: str, globex: Globex) -> Iterator[tuple[str, str]]:
    """Each way to get at what is bob's -> path with query, and body."""
    asked = "GET" if method == "HEAD" else method
    queries = [f"?{query}" for query in QUERIES.get((asked, route), [])] or [""]
    bodies = [globex.put_in(json.dumps(body)) for body in BODIES.get((method, route), [{}])]
    for path, query, body in product(filled(route, globex), queries, bodies):
        yield path + query, body


def text_of(reply: Any) -> str:
    body = b"".join(reply.streaming_content) if reply.streaming else reply.content
    return str(body.decode(errors="replace")) + str(dict(reply.headers))


def ask(client: Client, method: str, path: str, body: str) -> HttpResponse:
    reply: Any = client.generic(method, path, body, content_type="application/json")
    return reply  # type: ignore[no-any-return]


def denies(reply: HttpResponse, method: str) -> bool:
    """Whether it is a refusal; of a batch, one for each item."""
    if reply.status_code == 202 and b'"results"' in reply.content:
        return all(one["status"] in DENIED for one in json.loads(reply.content)["results"])
    sent_away = reply.status_code == 302 and reply.headers["Location"].startswith("/admin/")
    return reply.status_code in DENIED or sent_away


# --- Routes ---------------------------------------------------------------------------------------


def test_every_route_is_in_a_table_and_every_table_names_routes() -> None:
    found = {route.path for route in ROUTES if not route.path.startswith("/admin/")}
    api = {(method, route.path) for route in API for method in route.methods}
    assert api == set(NEEDS), "Say in NEEDS which scope opens it."
    assert found == {*PUBLIC, METRICS, *(path for _, path in NEEDS)}, "Say in PUBLIC why it is."
    assert {scope for scope in NEEDS.values() if scope} <= SCOPES
    assert {*QUERIES, *BODIES} | OWN <= set(NEEDS)


@pytest.mark.parametrize("route", API, ids=lambda route: route.path)
def test_every_route_of_the_api_asks_for_a_caller(route: Route) -> None:
    """Also those whose code would not: the permission classes are asked first."""
    view = route.callback.cls
    assert view.permission_classes == [IsAuthenticated]
    names = [cls.__name__ for cls in view.authentication_classes]
    momentos = route.path.startswith(MOMENTO)
    assert names == (["BareAuthentication"] if momentos else ["BearerAuthentication", "OperatorAuthentication"])
    assert [cls.__name__ for cls in view.throttle_classes] == ["PrincipalThrottle"]
    assert (view.get_permissions is not APIView.get_permissions) == (route.path in OPEN_TO_READ)


@pytest.mark.django_db
@pytest.mark.parametrize("route", API, ids=lambda route: route.path)
def test_nobody_gets_at_what_is_another_accounts(route: Route) -> None:
    globex = Globex()
    before = globex.state()
    for method in METHODS:
        for name, client in strangers().items():
            for path, body in attempts(method, route.path, globex):
                reply = ask(client, method, path, body)
                what = (name, method, path, body, reply.status_code, text_of(reply)[:300])
                assert CANARY not in text_of(reply).replace(path, ""), what
                if method in ("OPTIONS", "HEAD") and reply.status_code == 200:
                    assert name not in ("nobody", "signed in, no staff"), what
                    assert method == "OPTIONS" or ("GET", route.path) in OWN, what
                elif (method, route.path) in OWN and name not in ("nobody", "signed in, no staff"):
                    assert reply.status_code < 500, what
                else:
                    assert denies(reply, method), what
                if name in ("nobody", "signed in, no staff"):
                    assert reply.status_code == 401, what
    assert globex.state() == before


@pytest.mark.django_db
@pytest.mark.parametrize(("method", "route"), NEEDS, ids=str)
def test_a_service_needs_the_one_scope_and_no_other_will_do(method: str, route: str) -> None:
    globex = Globex()
    needed = NEEDS[method, route]
    before = globex.state()
    for scope in sorted(SCOPES - {needed}):
        client = bearer(service([scope]))
        for path, body in attempts(method, route, globex):
            reply = ask(client, method, path, body)
            if (method, route) not in OWN or needed:
                assert denies(reply, method), (scope, path, reply.content)
            assert CANARY not in text_of(reply).replace(path, ""), (scope, path)
    assert globex.state() == before
    if needed:
        client = bearer(service([needed]))
        replies = [ask(client, method, path, body) for path, body in attempts(method, route, globex)]
        assert any(reply.status_code < 300 for reply in replies), [reply.content for reply in replies]
        if method == "GET" and route not in WITHOUT_TEXTS:
            assert any(CANARY in text_of(reply) for reply in replies), "The test would not see a leak."


@pytest.mark.django_db
@pytest.mark.parametrize(("method", "route"), NEEDS, ids=str)
def test_an_operator_who_may_only_read_changes_nothing(method: str, route: str) -> None:
    globex = Globex()
    clerk = signed_in("clerk", is_staff=True)
    before = globex.state()
    for path, body in attempts(method, route, globex):
        reply = ask(clerk, method, path, body)
        if NEEDS[method, route] is not None and NEEDS[method, route].endswith(":write"):  # type: ignore[union-attr]
            assert denies(reply, method), (path, reply.content)
    assert globex.state() == before


@pytest.mark.django_db
def test_the_admin_is_closed_to_all_but_staff_and_shows_staff_only_what_they_may_see() -> None:
    globex = Globex()
    before = globex.state()
    callers = {**strangers(), "clerk": signed_in("clerk", is_staff=True)}
    for route in ADMIN:
        page = route.path.removeprefix("/admin/")
        for path, (name, client), method in product(filled(route.path, globex), callers.items(), ("GET", "POST")):
            if page == "logout/" and name == "clerk":
                continue
            reply = ask(client, method, path, "{}")
            what = (name, method, path, reply.status_code)
            assert CANARY not in text_of(reply).replace(path, ""), what
            if page in STAFF_PAGES and (name == "clerk" or page in ("login/", "logout/")):
                assert reply.status_code < 500, what
            else:
                assert denies(reply, method), what
    assert globex.state() == before
    boss = signed_in("boss", is_staff=True, is_superuser=True)
    shown = [ask(boss, "GET", f"/admin/{page}", "") for page in ("accounts/apikey/", "notifications/message/")]
    assert [reply.status_code for reply in shown] == [200, 200]
    assert CANARY in text_of(shown[1]), "The test would not see a leak."


@pytest.mark.django_db
def test_the_demo_gives_tokens_to_its_own_two_users_only_and_is_not_there_in_production(settings: LazySettings) -> None:
    client = Client()
    for user in ("root", "carol", "bob,alice", "", None):
        assert ask(client, "POST", "/demo/token", json.dumps({"user": user})).status_code == 400
    assert settings.DEMO, "tests/config/test_settings.py tests that it is off in production"


@pytest.mark.django_db
def test_metrics_are_for_loopback_and_admin_read_only() -> None:
    callers = {**strangers(), "a reader": bearer(service(["admin:read"]))}
    callers |= {scope: bearer(service([scope])) for scope in SCOPES - {"admin:read"}}
    for name, client in callers.items():
        reply: Any = client.get("/metrics", REMOTE_ADDR="192.0.2.7")
        assert reply.status_code == (200 if name == "a reader" else 403), name
        assert (b"fanfare_" in reply.content) == (name == "a reader"), name


@pytest.mark.django_db
@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP", "Forwarded", "Via"])
def test_what_a_proxy_on_this_host_passes_on_is_not_from_loopback(header: str) -> None:
    assert Client().get("/metrics", headers={header: "192.0.2.7"}).status_code == 403
    assert Client().get("/metrics").status_code == 200


# --- Topics ---------------------------------------------------------------------------------------

# By kind: bob's topic, and who may subscribe (s) and publish (p) to it.
TOPICS: dict[str, tuple[str, dict[str, str]]] = {
    "user": ("user.bob", {}),
    "account": ("account.globex", {}),
    "all": ("all", {"alice": "s", "alice, with rooms": "s"}),
    "session": ("session.bobs-tab", {}),
    "topic": ("topic.globex-room", {}),
    "presence": ("presence.globex-room", {}),
    "watch": ("watch.bob", {}),
    "board": ("board.open-to-users", {"alice": "s", "alice, with rooms": "s"}),
}
# By kind: the scopes that open it, where they are not those of the log.
TOPIC_SCOPES = {
    "presence": {"presence:read": "s"},
    "watch": {"presence:read": "s"},
    "board": {"leaderboards:read": "s"},
}
LOG_SCOPES = {"notifications:read": "s", "notifications:write": "p"}
UNLISTED = [
    "session", "session.", "boards.scores", "board", "board.", "task.bob", "control", "presence", "presence.", "user",
    "user.", "all.", "all.x",
    ".", "USER.bob", "User.bob", " user.bob", "users.bob", "topic", "*", "user*", "..", "$SYS", "user:bob", "user/bob",
    "user%2ebob", "\0user.bob", "user.bob\0", "user.bob,user.alice", "account", "account.", "topic." + "x" * 201,
]  # fmt: skip


@pytest.mark.django_db
def test_of_every_kind_of_topic_it_is_said_who_may_do_what(settings: LazySettings) -> None:
    assert set(TOPICS) == set(settings.REALTIME_TOPICS), "Say in TOPICS who may subscribe and publish."
    Globex()
    callers = {name: text for name, text in credentials().items() if text}
    callers |= {scope: service([scope]) for scope in SCOPES}
    for kind, (topic, allowed) in TOPICS.items():
        for name, text in callers.items():
            expected = TOPIC_SCOPES.get(kind, LOG_SCOPES).get(name, allowed.get(name, ""))
            may = ""
            for action, letter in (("subscribe", "s"), ("publish", "p")):
                may += "" if refusals_now(principal(text), action, [topic]) else letter  # type: ignore[arg-type]
            assert may == expected, (kind, name)


@pytest.mark.django_db
@pytest.mark.parametrize("topic", UNLISTED)
def test_a_kind_that_is_not_listed_is_closed_to_everybody_whatever_they_have(topic: str) -> None:
    everything = user_token("alice", "acme", subscribe=["*"], publish=["*"])
    for caller in (principal(service(SCOPES)), principal(everything)):
        for action in ("subscribe", "publish"):
            error = refusals_now(caller, action, [topic])[topic]
            assert error.status in (400, 403)


# --- The socket, the stream and the poll ----------------------------------------------------------

ROOM = "topic.globex-room"


def _attempts(
    bobs_token: str, bobs_room: str, bobs_connection: str, bobs_message: str
) -> dict[str, list[tuple[Any, str]]]:
    """By action: frames that reach for what is bob's, and the event that answers (or the error's code)."""
    theirs = [*BOBS_TOPICS, "control", "user.*", "*"]
    return {
        "ping": [({"ref": 1}, "pong")],
        "subscribe": [
            *(({"topic": topic}, "denied") for topic in theirs),
            *(({"topic": topic, "since": {"epoch": None, "offset": 0}}, "denied") for topic in theirs),
            ({"topic": "watch.bob"}, "denied"),
            ({"topic": "watch", "users": ["bob"]}, "subscribed"),  # To nobody: see below.
            ({"topic": "user.bob", "token": bobs_token}, "wrong_user"),
            ({"topic": ROOM, "token": bobs_room}, "wrong_user"),
            ({"topic": "user.bob", "token": "eyJhbGciOiJub25lIn0.e30."}, "unauthenticated"),
        ],
        "unsubscribe": [({"topic": topic}, "unsubscribed") for topic in BOBS_TOPICS],
        "publish": [({"topic": topic, "data": "forged"}, "denied") for topic in [*theirs, "all"]],
        "send": [
            ({"message": "what is the caller's own"}, "ok or denied"),
            ({"message": "forged", "user": "bob"}, "malformed"),
            ({"message": "forged", "attributes": {"user_id": "bob"}}, "malformed"),
        ],
        "status": [({"text": "the caller's own"}, "ok or denied"), ({"user": "bob", "text": "forged"}, "malformed")],
        "refresh": [
            ({"token": bobs_token}, "wrong_user"),
            ({"token": bobs_room}, "wrong_user"),
            ({"token": "ff_x_y"}, "unauthenticated"),
        ],
        **{deed: [({"ids": [bobs_message]}, "ok or denied")] for deed in ("seen", "read", "unread", "archive", "ack")},
        "logout": [({"user": "bob"}, "malformed"), ({"connection": bobs_connection}, "malformed")],
    }


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"])
    with folder as path, Stack(Path(path) / "deny", FRAMES_BURST="1000", CONNECTIONS_PER_USER="200") as stack:
        stack.start_web()
        for to in ({"user": "bob"}, {"account": "globex"}, {"topic": "globex-room"}):
            stack.send(to, CANARY)
        with (
            stack.client() as backend,
            stack.client(key=stack.token("bob", "globex")) as bob,
            stack.client(key=stack.token("alice", "acme")) as alice,
        ):
            assert bob.get("/api/notifications").status_code == alice.get("/api/notifications").status_code == 200
            assert backend.put("/api/presence/bob", json={"text": CANARY}).status_code == 200
        time.sleep(1)  # Bob was a target before his account was known: that moved him, which ends connections.
        yield stack


@pytest.fixture(scope="module")
def given(stack: Stack) -> dict[str, str]:
    """Credentials by who holds them."""
    mint = stack.token
    with stack.client() as client:

        def scoped(**body: Any) -> str:
            return str(client.post("/api/tokens", json=body).raise_for_status().json()["token"])

        return {
            "alice": mint("alice", "acme", subscribe=["topic.acme-*"], publish=["topic.acme-*"]),
            "alice's scoped token": scoped(user="alice", topics=["user.alice", "topic.acme-1"]),
            "a token of no user": scoped(topics=["topic.acme-1"]),
            "a service that may nothing else": stack.manage(
                "apikey", "create", "other", "--scopes", "leaderboards:read"
            ).strip(),
            "bob": mint("bob", "globex"),
            "bob's room": scoped(user="bob", topics=[ROOM]),
        }


def test_of_every_action_it_is_known_what_it_does_with_what_is_anothers(stack: Stack) -> None:
    assert set(_attempts("", "", "", "")) == ACTIONS, "Say what a new action does with what is bob's."


@pytest.mark.parametrize(
    "name", ["alice", "alice's scoped token", "a token of no user", "a service that may nothing else"]
)
def test_no_action_gets_at_what_is_another_accounts(stack: Stack, given: dict[str, str], name: str) -> None:
    async def live() -> None:
        web = stack.web[0]
        async with dial(web, given["bob"]) as bob, dial(web, given[name]) as caller:
            bobs_connection = bob.events[0]["connectionId"]
            bobs_message = stack.send({"user": "bob"}, f"{CANARY} unread")["id"]
            reached_for = _attempts(given["bob"], given["bob's room"], bobs_connection, bobs_message)
            for action, frames in reached_for.items():
                for frame, expected in frames:
                    ref = str(uuid4())
                    await caller.send(action=action, **{**frame, "ref": ref})
                    answer = await _answer(caller, ref)
                    got = answer.get("code", answer["event"])
                    assert got in expected.split(" or "), (action, frame, answer)
                    assert not answer.get("receipted"), (action, frame, answer)
                    assert not answer.get("snapshot"), (action, frame, answer)
                    await caller.ask("pong", action="ping")  # A good frame in between.
            stack.send({"user": "bob"}, f"{CANARY} live")
            stack.send({"account": "globex"}, f"{CANARY} live")
            await bob.next("message", topic="account.globex", data=f"{CANARY} live")
            await bob.silence()
            await caller.silence()
            assert "forged" not in bob.data()
            assert CANARY not in json.dumps(caller.events)

    asyncio.run(live())


async def _answer(caller: Any, ref: str) -> dict[str, Any]:
    while True:
        for event in caller.events:
            if event.get("ref") == ref:
                return dict(event)
        caller.events.append(json.loads(await asyncio.wait_for(caller.connection.recv(), 20)))


@pytest.mark.parametrize("path", sorted(waiting))
@pytest.mark.parametrize("method", METHODS)
def test_what_waits_denies_the_same(stack: Stack, given: dict[str, str], path: str, method: str) -> None:
    others = {name: text for name, text in given.items() if not name.startswith("bob")}
    place = "eyJ1c2VyLmJvYiI6W251bGwsMF19"  # {"user.bob": [null, 0]}
    for name, text in {"nobody": None, "nonsense": "nonsense", **others}.items():
        for query in (f"topics={','.join(BOBS_TOPICS)}", f"topics=user.bob&since={place}", "topics=control"):
            headers = {"Authorization": f"Bearer {text}"} if text else {}
            url = f"{stack.web[0].url}{path}?{query}&wait=0"
            with httpx.stream(method, url, headers=headers, timeout=10) as reply:
                assert reply.status_code in ({401} if name in ("nobody", "nonsense") else {403, 405}), (name, query)
                assert CANARY not in reply.read().decode()


def test_the_poll_of_a_topic_denies_the_same(stack: Stack, given: dict[str, str]) -> None:
    others = {name: text for name, text in given.items() if not name.startswith("bob")}
    for name, text in {"nobody": None, "nonsense": "nonsense", **others}.items():
        for form in ("{}", "Bearer {}"):
            headers = {"Authorization": form.format(text)} if text else {}
            reply = httpx.get(f"{stack.web[0].url}/topics/default/globex-room", headers=headers, timeout=10)
            assert reply.status_code == (401 if name in ("nobody", "nonsense") else 403), name
            assert CANARY not in reply.text
