"""Authorisers: a real server in a thread is the foreign backend, and what it does wrong allows nothing."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import ANY
from uuid import uuid4

import pytest
from django.conf import LazySettings
from rest_framework.test import APIClient

from accounts.errors import ApiError
from accounts.principals import SCOPES, Kind, Principal
from accounts.signatures import verify
from realtime import asking, authorizers
from realtime.checks import check_authorizers
from tests.test_docs import ROOT, blocks

pytestmark = pytest.mark.any_database

SECRET = "a secret of the two servers"
QUICK = 0.3


class Backend(ThreadingHTTPServer):
    """Somebody's application. It checks the signature, notes what it is asked, and answers with `reply`."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/{uuid4()}"
        self.asked: list[dict[str, Any]] = []
        self.cookies: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.reply: Callable[[dict[str, Any]], Any] = lambda _question: {"allow": True}
        self.status, self.headers = 200, {}  # type: tuple[int, dict[str, str]]
        self.seconds = 0.0
        self.raw: Callable[[_Handler], None] | None = None
        self.forged = False

    def handle_error(self, *_args: Any) -> None:
        """Whoever gave up waiting has closed the socket."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Backend

    def do_POST(self) -> None:
        backend = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        id, at, signature = (self.headers[f"webhook-{name}"] for name in ("id", "timestamp", "signature"))
        if not verify(SECRET, id, at, body, signature):
            backend.forged = True
        question = json.loads(body)
        with backend.lock:
            backend.asked.append(question)
            backend.cookies.append(self.headers["cookie"])
            backend.at_once += 1
            backend.most_at_once = max(backend.most_at_once, backend.at_once)
        time.sleep(backend.seconds)
        with backend.lock:
            backend.at_once -= 1
        if backend.raw:
            backend.raw(self)
            self.close_connection = True
            return
        answer = backend.reply(question)
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(backend.status)
        for name, value in {"content-length": str(len(text)), **backend.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def backend(settings: LazySettings) -> Iterator[Backend]:
    """It decides about `topic.…`."""
    with Backend() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        settings.TOPIC_AUTHORIZERS = {"topic": server.url}
        settings.AUTHORIZE_SECRET = SECRET
        settings.AUTHORIZE_TIMEOUT = 5.0
        yield server
        server.shutdown()
        assert not server.forged


def user(id: str = "alice", account: str | None = "acme", **rest: Any) -> Principal:
    return Principal(Kind.USER, id, account, **rest)


def code(principal: Principal, topic: str = "topic.room", action: asking.Action = "subscribe") -> str | None:
    """Why not, or None."""
    refused = authorizers.refusals_now(principal, action, [topic])
    return refused[topic].code if refused else None


# --- Who is asked ---------------------------------------------------------------------------------


def test_a_backend_is_asked_about_a_user_and_decides(backend: Backend) -> None:
    backend.reply = lambda question: {"allow": question["topic"] == "topic.red"}
    assert code(user(), "topic.red", "publish") is None
    assert code(user(), "topic.blue") == "denied"
    asked = {"user": "alice", "account": "acme"}
    assert backend.asked == [
        {"action": "publish", "topic": "topic.red", **asked},
        {"action": "subscribe", "topic": "topic.blue", **asked},
    ]


def test_what_is_allowed_anyway_and_what_cannot_be_is_not_asked(backend: Backend, settings: LazySettings) -> None:
    settings.TOPIC_AUTHORIZERS = dict.fromkeys(settings.REALTIME_TOPICS, backend.url)
    assert code(user(), "user.alice") is None
    assert code(user(), "account.acme") is None
    assert code(user(subscribe=("topic.r*",)), "topic.room") is None
    assert code(user(publish=("topic.room",)), "topic.room", "publish") is None
    assert code(user(), "nothing.room") == "denied"
    assert code(user(), "topic.a,b") == "malformed_topic"
    assert not backend.asked


def test_services_and_operators_have_their_scopes_only(backend: Backend) -> None:
    for kind in (Kind.SERVICE, Kind.OPERATOR):
        assert code(Principal(kind, "acme-backend", scopes=SCOPES)) is None
        assert code(Principal(kind, "acme-backend")) == "denied"
    assert not backend.asked


def test_a_kind_without_authoriser_stays_closed(backend: Backend) -> None:
    assert code(user(), "account.globex") == "denied"
    assert code(user(), "all", "publish") == "denied"
    assert not backend.asked


def test_the_holder_of_a_scoped_token_has_its_topics_and_nobody_is_asked(backend: Backend) -> None:
    assert code(Principal(Kind.TOKEN, "t1", credential="token:1", holder="alice")) == "denied"
    assert code(Principal(Kind.TOKEN, "t2", credential="token:2")) == "denied"
    assert backend.asked == []


def test_who_may_not_gets_403_and_who_cannot_be_asked_about_503(backend: Backend) -> None:
    backend.reply = lambda _question: {"allow": False}
    with pytest.raises(ApiError) as refused:
        authorizers.require_now(user(), "subscribe", "topic.room")
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (403, "denied", None)
    backend.status = 500
    with pytest.raises(ApiError) as refused:
        authorizers.require_now(user(), "publish", "topic.room")
    assert (refused.value.status, refused.value.code) == (503, "authorizer_unavailable")
    assert refused.value.retry_after


# --- What is remembered ---------------------------------------------------------------------------


def test_an_answer_is_remembered_for_its_ttl(backend: Backend) -> None:
    backend.reply = lambda _question: {"allow": True, "ttl": QUICK}
    assert [code(user()) for _ in range(3)] == [None] * 3
    assert len(backend.asked) == 1
    time.sleep(QUICK)
    assert code(user()) is None
    assert len(backend.asked) == 2


def test_an_answer_without_ttl_is_remembered_and_one_with_0_is_not(backend: Backend) -> None:
    backend.reply = lambda question: {"allow": True, **({"ttl": 0} if question["topic"] == "topic.now" else {})}
    for _ in range(2):
        assert code(user()) is None
        assert code(user(), "topic.now") is None
    assert [question["topic"] for question in backend.asked] == ["topic.room", "topic.now", "topic.now"]


def test_the_cap_counts_more_than_the_ttl(backend: Backend, settings: LazySettings) -> None:
    settings.AUTHORIZE_CACHE_SECONDS = QUICK
    backend.reply = lambda _question: {"allow": True, "ttl": 1e300}
    assert code(user()) is None
    time.sleep(QUICK)
    backend.reply = lambda _question: {"allow": False}
    assert code(user()) == "denied"


def test_a_no_is_remembered_but_never_for_long(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "DENIAL_SECONDS", QUICK)
    backend.reply = lambda _question: {"allow": False, "ttl": 50}
    assert [code(user()) for _ in range(3)] == ["denied"] * 3
    assert len(backend.asked) == 1
    time.sleep(QUICK)
    backend.reply = lambda _question: {"allow": True}
    assert code(user()) is None


def test_an_answer_is_for_one_user_of_one_account_one_action_and_one_topic(backend: Backend) -> None:
    yes = {"action": "subscribe", "topic": "topic.room", "user": "alice", "account": "acme"}
    backend.reply = lambda question: {"allow": question == yes}
    for _ in range(2):
        assert code(user()) is None
        assert code(user(account="globex")) == "denied"
        assert code(user(account=None)) == "denied"
        assert code(user("bob")) == "denied"
        assert code(user(), "topic.other") == "denied"
        assert code(user(), action="publish") == "denied"
    assert len(backend.asked) == 6


def test_a_failure_is_not_remembered(backend: Backend) -> None:
    backend.status = 503
    assert code(user()) == "authorizer_unavailable"
    backend.status = 200
    assert code(user()) is None


def test_answers_do_not_pile_up() -> None:
    answers = asking._Answers(3)
    for number in range(5):
        answers.keep(number, True, 60)
    answers.keep(2, False, 60)
    answers.keep("never", True, 0)
    answers.keep("gone", True, -1)
    assert len(answers) == 3
    assert [answers.get(key) for key in (0, 1, 2, 3, 4)] == [None, None, False, True, True]
    answers.keep(5, True, 60)
    assert [answers.get(key) for key in (2, 3, 4, 5)] == [False, None, True, True]


def test_cookies_do_not_go_from_one_question_to_the_next(backend: Backend) -> None:
    backend.headers = {"set-cookie": "session=alice; Path=/"}
    assert code(user()) is None
    assert code(user("bob")) is None
    assert backend.cookies == [None, None]


# --- What goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"yes",
        b"{",
        b"true",
        b"[true]",
        b"{}",
        b'{"allow": 1}',
        b'{"allow": "true"}',
        b'{"allow": null}',
        b'{"allow": true, "ttl": -1}',
        b'{"allow": true, "ttl": "60"}',
        b'{"allow": true, "ttl": true}',
        b'{"allow": false, "allow": true}',
        b'{"allow": true, "ttl": 1e999}',
        b'\xff{"allow": true}',
        b'{"allow": true, "note": "' + b"x" * 5000 + b'"}',
        b'{"allow": true}' + b" " * 5_000_000,
    ],
    ids=lambda reply: reply[:40].decode("latin-1"),
)
def test_a_reply_that_is_none_allows_nothing(backend: Backend, reply: bytes) -> None:
    backend.reply = lambda _question: reply
    assert code(user()) == "authorizer_unavailable"


@pytest.mark.parametrize("status", [201, 204, 301, 307, 400, 401, 403, 404, 429, 500, 503])
def test_only_status_200_is_an_answer_and_no_redirect_is_followed(backend: Backend, status: int) -> None:
    backend.status = status
    backend.headers = {"location": backend.url} if status in (301, 307) else {}
    backend.reply = lambda _question: b"" if status == 204 else {"allow": True}
    assert code(user()) == "authorizer_unavailable"
    assert len(backend.asked) == 1


def test_a_packed_reply_is_not_unpacked(backend: Backend) -> None:
    backend.headers = {"content-encoding": "gzip"}
    backend.reply = lambda _question: b"\x1f\x8b"
    assert code(user()) == "authorizer_unavailable"


def _drip_head(handler: _Handler) -> None:
    for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n" + b'{"allow": true}':
        handler.wfile.write(bytes([byte]))
        time.sleep(0.05)


def _drip_body(handler: _Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    for _ in range(1000):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def _hang_up(_handler: _Handler) -> None:
    pass


def _stop_short(handler: _Handler) -> None:
    handler.wfile.write(b'HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{"allow": true}')


def _talk_nonsense(handler: _Handler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")


@pytest.mark.parametrize("raw", [_drip_head, _drip_body, _hang_up, _stop_short, _talk_nonsense])
def test_broken_and_endless_replies_end_within_the_limit(
    backend: Backend, settings: LazySettings, raw: Callable[[_Handler], None]
) -> None:
    settings.AUTHORIZE_TIMEOUT = QUICK
    backend.raw = raw
    started = time.monotonic()
    assert code(user()) == "authorizer_unavailable"
    assert time.monotonic() - started < QUICK + 1


def test_a_late_answer_is_none(backend: Backend, settings: LazySettings) -> None:
    settings.AUTHORIZE_TIMEOUT = QUICK
    backend.seconds = 2 * QUICK
    started = time.monotonic()
    assert code(user()) == "authorizer_unavailable"
    assert time.monotonic() - started < QUICK + 1
    backend.seconds = 0
    assert code(user()) is None


def test_nobody_there_allows_nothing(settings: LazySettings) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        settings.TOPIC_AUTHORIZERS = {"topic": f"http://127.0.0.1:{closed.getsockname()[1]}/"}
        assert code(user()) == "authorizer_unavailable"


# --- Many at once ---------------------------------------------------------------------------------


def test_who_asks_the_same_at_once_shares_one_question(backend: Backend) -> None:
    backend.seconds = QUICK
    backend.reply = lambda _question: {"allow": True, "ttl": 0}
    with ThreadPoolExecutor(20) as threads:
        assert set(threads.map(lambda _: code(user()), range(20))) == {None}
    assert len(backend.asked) == 1


def test_many_topics_are_asked_about_side_by_side_but_not_all(backend: Backend) -> None:
    backend.seconds = 0.05
    names = [f"topic.{number}" for number in range(40)]
    backend.reply = lambda question: {"allow": question["topic"] != "topic.7"}
    refused = authorizers.refusals_now(user(), "subscribe", ["user.alice", "account.globex", *names, *names])
    assert {name: error.code for name, error in refused.items()} == {"account.globex": "denied", "topic.7": "denied"}
    assert len(backend.asked) == 40
    assert 1 < backend.most_at_once <= asking.QUESTIONS_AT_ONCE


def test_after_a_failure_the_rest_is_not_asked(backend: Backend, settings: LazySettings) -> None:
    settings.AUTHORIZE_TIMEOUT = QUICK
    backend.seconds = 2 * QUICK
    names = [f"topic.{number}" for number in range(100)]
    started = time.monotonic()
    refused = authorizers.refusals_now(user(), "subscribe", names)
    assert time.monotonic() - started < 2 * QUICK + 1
    assert {error.code for error in refused.values()} == {"authorizer_unavailable"}
    assert len(refused) == 100
    assert len(backend.asked) <= asking.QUESTIONS_AT_ONCE


def test_one_authoriser_that_fails_does_not_take_another_with_it(backend: Backend, settings: LazySettings) -> None:
    settings.TOPIC_AUTHORIZERS = {"topic": backend.url, "account": "tests.realtime.test_authorizers.broken"}
    refused = authorizers.refusals_now(user(), "subscribe", ["account.a", "topic.a", "account.b", "topic.b"])
    assert refused.keys() == {"account.a", "account.b"}


def test_there_is_a_limit_to_what_one_call_may_ask(backend: Backend) -> None:
    with pytest.raises(ApiError) as refused:
        authorizers.refusals_now(user(), "publish", [f"topic.{number}" for number in range(201)])
    assert refused.value.code == "too_many_topics"
    assert not backend.asked


def test_beyond_the_waiting_ones_nobody_is_asked_about(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "WAITING_MAX", 2)
    backend.seconds = QUICK
    refused = authorizers.refusals_now(user(), "subscribe", [f"topic.{number}" for number in range(5)])
    assert {error.code for error in refused.values()} == {"authorizer_unavailable"}
    assert len(refused) == 3
    assert code(user()) is None


async def test_the_event_loop_goes_on_meanwhile(backend: Backend) -> None:
    backend.seconds = QUICK
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    turning = asyncio.create_task(turn())
    people = [user(f"user-{number}") for number in range(20)]
    async with asyncio.timeout(5):
        await asyncio.gather(*(authorizers.require(one, "subscribe", "topic.room") for one in people))
    assert turns > 10
    turning.cancel()
    with pytest.raises(ApiError, match="no topic"):
        await authorizers.require(user(), "subscribe", "nothing.x")


async def test_who_leaves_does_not_take_the_answer_from_others(backend: Backend) -> None:
    backend.seconds = QUICK
    first = asyncio.create_task(authorizers.require(user(), "subscribe", "topic.room"))
    await asyncio.sleep(QUICK / 3)
    second = asyncio.create_task(authorizers.require(user(), "subscribe", "topic.room"))
    await asyncio.sleep(QUICK / 3)
    first.cancel()
    await second
    assert first.cancelled()
    assert len(backend.asked) == 1


# --- Functions ------------------------------------------------------------------------------------

calls: list[tuple[str, str, Principal]] = []


def may(action: str, topic: str, principal: Principal) -> bool:
    calls.append((action, topic, principal))
    return topic == f"topic.{principal.account}"


def broken(_action: str, _topic: str, _principal: Principal) -> bool:
    raise RuntimeError("broken")


def leaving(_action: str, _topic: str, _principal: Principal) -> bool:
    raise SystemExit


def vague(_action: str, _topic: str, _principal: Principal) -> Any:
    return 1


def slow(_action: str, _topic: str, _principal: Principal) -> bool:
    time.sleep(2 * QUICK)
    return True


async def later(_action: str, _topic: str, _principal: Principal) -> bool:
    return True


def use(settings: LazySettings, function: Callable[..., Any]) -> None:
    settings.TOPIC_AUTHORIZERS = {"topic": f"{__name__}.{function.__name__}"}


def test_a_function_decides_each_time(settings: LazySettings) -> None:
    use(settings, may)
    calls.clear()
    alice = user(f"alice-{uuid4()}")
    for _ in range(2):
        assert code(alice, "topic.acme") is None
        assert code(alice, "topic.globex") == "denied"
    assert calls == [("subscribe", "topic.acme", alice), ("subscribe", "topic.globex", alice)] * 2


@pytest.mark.parametrize("function", [broken, leaving, vague])
def test_a_function_that_raises_or_does_not_say_allows_nothing(
    settings: LazySettings, function: Callable[..., Any]
) -> None:
    use(settings, function)
    assert code(user()) == "authorizer_unavailable"
    use(settings, may)
    assert code(user(), "topic.acme") is None


def test_a_function_that_is_not_there_allows_nothing(settings: LazySettings) -> None:
    settings.TOPIC_AUTHORIZERS = {"topic": "nowhere.may"}
    assert code(user()) == "authorizer_unavailable"


def test_a_slow_function_allows_nothing_and_more_of_them_wait_for_a_thread(settings: LazySettings) -> None:
    use(settings, slow)
    settings.AUTHORIZE_TIMEOUT = QUICK
    started = time.monotonic()
    with ThreadPoolExecutor(12) as threads:
        assert set(threads.map(lambda _: code(user()), range(12))) == {"authorizer_unavailable"}
    assert time.monotonic() - started < QUICK + 1
    time.sleep(2 * QUICK)
    use(settings, may)
    assert code(user(), "topic.acme") is None


# --- Through the API ------------------------------------------------------------------------------


def api(caller: Principal | None = None) -> APIClient:
    client = APIClient()
    client.force_authenticate(caller or user())  # type: ignore[arg-type]  # Ours is no Django user.
    return client


def send(client: APIClient, topic: str = "room") -> Any:
    return client.post("/api/notifications", {"to": {"topic": topic}, "data": 1}, format="json")


def send_batch(client: APIClient, *topics: str, **headers: str) -> Any:
    items = [{"to": {"topic": topic}, "data": 1} for topic in topics]
    return client.post("/api/notifications/batch", {"notifications": items}, format="json", headers=headers)


@pytest.mark.django_db
def test_a_batch_asks_once_for_each_topic(backend: Backend) -> None:
    backend.reply = lambda question: {"allow": question["topic"] != "topic.c", "ttl": 0}
    reply = send_batch(api(), *"abcabcab", "x,y")
    assert [result["status"] for result in reply.json()["results"]] == [202, 202, 403, 202, 202, 403, 202, 202, 400]
    assert sorted(question["topic"] for question in backend.asked) == ["topic.a", "topic.b", "topic.c"]


@pytest.mark.django_db
def test_a_batch_that_could_not_be_asked_about_is_refused_as_a_whole_and_may_be_repeated(backend: Backend) -> None:
    client = api()
    backend.status = 500
    reply = send_batch(client, "a", "b", **{"idempotency-key": "k1"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "authorizer_unavailable")
    assert reply.headers["Retry-After"]
    backend.status = 200
    reply = send_batch(client, "a", "b", **{"idempotency-key": "k1"})
    assert [result["status"] for result in reply.json()["results"]] == [202, 202]


@pytest.mark.django_db
def test_the_authoriser_decides_who_sends_and_who_reads(backend: Backend) -> None:
    backend.reply = lambda question: {"allow": question["user"] == "alice"}
    alice, bob, service = api(), api(user("bob")), api(Principal(Kind.SERVICE, "acme-backend", scopes=SCOPES))
    sent = send(alice)
    assert sent.status_code == 202
    assert send(bob).status_code == 403
    for path in (
        "/api/topics/topic.room/messages",
        "/api/notifications?topic=topic.room",
        f"/api/notifications/{sent.json()['id']}",
    ):
        assert alice.get(path).status_code == 200
        assert bob.get(path).status_code in (403, 404)
    backend.asked.clear()
    assert send(service).status_code == 202
    assert not backend.asked


@pytest.mark.django_db
def test_a_message_that_could_not_be_asked_about_is_not_said_to_be_missing(backend: Backend) -> None:
    id = send(api()).json()["id"]
    backend.status = 500
    reply = api(user("bob")).get(f"/api/notifications/{id}")
    assert (reply.status_code, reply.json()) == (503, {"error": {"code": "authorizer_unavailable", "message": ANY}})


# --- Settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOPIC_AUTHORIZERS", {}),
        ("TOPIC_AUTHORIZERS", {"topic": "https://app.example/authorize", "account": f"{__name__}.may"}),
        ("TOPIC_AUTHORIZERS", {"topic": "http://[::1]:8080/?x=y"}),
        ("AUTHORIZE_CACHE_SECONDS", 0),
        ("AUTHORIZE_SECRET", "whsec_c2VjcmV0"),
    ],
)
def test_good_settings_pass(settings: LazySettings, name: str, value: Any) -> None:
    setattr(settings, name, value)
    assert check_authorizers() == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOPIC_AUTHORIZERS", []),
        ("TOPIC_AUTHORIZERS", {"nothing": "https://app.example/"}),
        ("TOPIC_AUTHORIZERS", {"topic": None}),
        ("TOPIC_AUTHORIZERS", {"topic": ""}),
        ("TOPIC_AUTHORIZERS", {"topic": "nowhere.may"}),
        ("TOPIC_AUTHORIZERS", {"topic": f"{__name__}.nobody"}),
        ("TOPIC_AUTHORIZERS", {"topic": f"{__name__}.later"}),
        ("TOPIC_AUTHORIZERS", {"topic": f"{__name__}.Backend"}),
        ("TOPIC_AUTHORIZERS", {"topic": f"{__name__}.SECRET"}),
        ("TOPIC_AUTHORIZERS", {"topic": "ftp://app.example/"}),
        ("TOPIC_AUTHORIZERS", {"topic": "https://"}),
        ("TOPIC_AUTHORIZERS", {"topic": "https://app.example:99999/"}),
        ("TOPIC_AUTHORIZERS", {"topic": "https://[/"}),
        ("TOPIC_AUTHORIZERS", {"topic": "https://me:password@app.example/"}),
        ("TOPIC_AUTHORIZERS", {"topic": "https://app.example/#x"}),
        ("AUTHORIZE_TIMEOUT", 0),
        ("AUTHORIZE_TIMEOUT", float("nan")),
        ("AUTHORIZE_TIMEOUT", float("inf")),
        ("AUTHORIZE_CACHE_SECONDS", -1),
        ("AUTHORIZE_SECRET", "whsec_no base64"),
    ],
)
def test_a_mistake_is_found_at_start(settings: LazySettings, name: str, value: Any) -> None:
    setattr(settings, name, value)
    (found,) = check_authorizers()
    assert name in found.msg


def test_the_documented_function_lets_teams_into_their_own_topics() -> None:
    code = next(block for block in blocks(ROOT / "docs/settings.md", "python") if "def may(" in block)
    documented: dict[str, Any] = {}
    exec(code, documented)
    member = Principal(Kind.USER, "ada", "acme")
    allowed = [
        documented["may"](action, topic, member)
        for action, topic in (
            ("subscribe", "topic.team-acme"),
            ("publish", "topic.team-acme"),
            ("subscribe", "topic.team-x"),
        )
    ]
    assert allowed == [True, False, False]
