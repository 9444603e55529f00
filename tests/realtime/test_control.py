"""What a credential has opened ends with it, within a second, in every process, whether Redis runs or not."""

import asyncio
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection

from accounts import credentials, revocations, tokens, users
from accounts.models import Revocation
from accounts.principals import Kind, Principal
from accounts.revocations import Reason
from accounts.shapes import UserChange
from realtime.control import ENDINGS, Control
from realtime.protocol import CloseCode
from tests.credentials import mint
from tests.realtime.inside import APPLICATION, inside
from tests.realtime.raw import PATIENCE, Raw, http, request, upgrade
from tests.realtime.sockets import Socket, dial
from tests.servers import Stack, Web, eventually

pytestmark = pytest.mark.any_database

SECOND = 1.0
WAYS = ("socket", "stream", "poll")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="c", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0", CONSTANTS="{}") as stack,
    ):
        for _ in range(2):
            stack.start_web(APPLICATION, wait=False)
        for web in stack.web:
            web.wait_until_ready()
        yield stack


@pytest.fixture(scope="module", params=["redis runs", "redis is stopped"])
def either_way(stack: Stack, request: pytest.FixtureRequest) -> Iterator[None]:
    """The test is run twice: the bus has no part in it."""
    if request.param == "redis runs":
        yield
    else:
        with stack.valkey.stopped():
            yield
        for web in stack.web:
            web.wait_until_ready()


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever was opened has left nothing, and there was no traceback."""
    yield
    if "stack" in request.fixturenames:
        stack: Stack = request.getfixturevalue("stack")
        for web in stack.web:
            eventually(lambda web=web: not (at := inside(web))["inside"] and not at["watched"], PATIENCE)  # type: ignore[misc]
        assert "Traceback" not in stack.logs(), stack.logs()[-3000:]


class Held:
    """What a credential holds open: in both processes, a socket, a stream and a waiting poll.

    A thread for each notes with which code it ends, and when.
    """

    def __init__(self, stack: Stack, *headers: str, topics: str | None = None) -> None:
        self.stack, self.headers = stack, headers
        self._query = "" if topics is None else f"topics={topics}&"
        self._clients = ExitStack()
        self._threads = ThreadPoolExecutor(6)
        self._ends: dict[str, Future[tuple[int, float]]] = {}

    def __enter__(self) -> "Held":
        try:
            self._open()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self) -> None:
        for web in self.stack.web:
            before = inside(web)["connections"]
            for way in WAYS:
                client = self._clients.enter_context(Raw(web.port, seconds=60))
                self._clients.callback(_hang_up, client)  # Closing alone wakes no thread that reads.
                getattr(self, f"_open_{way}")(client, web)
                read = self._socket_end if way == "socket" else self._http_end
                self._ends[f"{way} of {web.number}"] = self._threads.submit(read, client)
            eventually(lambda web=web, all=before + 3: inside(web)["connections"] == all, PATIENCE)  # type: ignore[misc]

    def __exit__(self, *_: object) -> None:
        self._clients.close()
        self._threads.shutdown()

    def check(self, code: CloseCode, since: float) -> None:
        """All of them end with this code within a second of this time."""
        ends = {name: end.result(PATIENCE) for name, end in self._ends.items()}
        assert {name: code for name, (code, _) in ends.items()} == dict.fromkeys(ends, code)
        late = {name: round(at - since, 3) for name, (_, at) in ends.items()}
        print("ended after", late)
        assert max(late.values()) <= SECOND, late

    def still_open(self) -> bool:
        return not any(end.done() for end in self._ends.values())

    def _open_socket(self, client: Raw, web: Web) -> None:
        client.send(upgrade(f"/ws/?{self._query}", f"Origin: {web.url}", f"Host: 127.0.0.1:{web.port}", *self.headers))
        assert client.head()[0] == 101
        client.event("welcome")

    def _open_stream(self, client: Raw, _web: Web) -> None:
        client.send(request(f"/api/stream?{self._query}", "Connection: close", *self.headers))
        assert client.head()[0] == 200

    def _open_poll(self, client: Raw, web: Web) -> None:
        headers = dict(line.split(": ", 1) for line in self.headers)
        first = http.get(f"{web.url}/api/poll?{self._query}", headers=headers)
        assert first.status_code == 200, first.text
        path = f"/api/poll?{self._query}since={first.json()['since']}&wait=60"
        client.send(request(path, "Connection: close", *self.headers))

    @staticmethod
    def _socket_end(client: Raw) -> tuple[int, float]:
        return client.close_code() or 0, time.time()

    @staticmethod
    def _http_end(client: Raw) -> tuple[int, float]:
        with suppress(OSError):
            codes = re.findall(rb'"event":"closed","code":(\d+)', client.rest())
            return (int(codes[0]) if len(codes) == 1 else 0), time.time()
        return 0, time.time()


def _hang_up(client: Raw) -> None:
    with suppress(OSError):
        client.socket.shutdown(socket.SHUT_RDWR)


def bearer(credential: str) -> str:
    return f"Authorization: Bearer {credential}"


def ask(web: Web, credential: str, path: str, method: str = "GET", **options: Any) -> httpx.Response:
    return http.request(method, web.url + path, headers={"Authorization": f"Bearer {credential}"}, **options)


def done(reply: httpx.Response) -> float:
    """When a request was carried out, in epoch seconds."""
    assert reply.is_success, reply.text
    return time.time()


def check_refused(stack: Stack, credential: str, path: str, since: float) -> None:
    """Both processes refuse it over HTTP and at the door of every way in, within a second of this time."""
    for web in stack.web:
        while ask(web, credential, path).status_code != 401:
            assert time.time() - since <= SECOND
            time.sleep(0.01)
        for waiting in ("/api/stream", "/api/poll"):
            assert ask(web, credential, waiting).status_code == 401
        with Raw(web.port) as client:
            client.send(upgrade("/ws/", bearer(credential)))
            client.head()
            assert client.close_code() == CloseCode.UNAUTHENTICATED


def new_token(stack: Stack, **wanted: Any) -> tuple[str, str]:
    """A token that the server makes -> id, text."""
    reply = ask(stack.web[0], stack.api_key, "/api/tokens", "POST", json=wanted)
    assert reply.status_code == 201, reply.text
    return reply.json()["id"], reply.json()["token"]


def revoke_token(stack: Stack, token_id: str) -> float:
    return done(ask(stack.web[0], stack.api_key, f"/api/tokens/{token_id}", "DELETE"))


# --- What ends a credential -----------------------------------------------------------------------


@pytest.mark.usefixtures("either_way")
def test_a_revoked_token_is_refused_and_what_it_opened_ends(stack: Stack) -> None:
    token_id, token = new_token(stack, user="rosa", account="acme")
    _, other = new_token(stack, user="rosa")
    with Held(stack, bearer(token)) as held, Held(stack, bearer(other)) as others:
        since = revoke_token(stack, token_id)
        check_refused(stack, token, "/api/users/rosa", since)
        held.check(CloseCode.REVOKED, since)
        assert others.still_open()
    assert all(ask(web, other, "/api/users/rosa").status_code == 200 for web in stack.web)


@pytest.mark.usefixtures("either_way")
def test_a_revoked_token_for_topics_only_ends_too(stack: Stack) -> None:
    token_id, token = new_token(stack, topics=["topic.news"])
    with Held(stack, bearer(token)) as held:
        since = revoke_token(stack, token_id)
        check_refused(stack, token, "/api/poll", since)
        held.check(CloseCode.REVOKED, since)


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("made_by", ["the server", "the application"])
def test_who_logs_out_over_http_is_out_everywhere(stack: Stack, made_by: str) -> None:
    token = new_token(stack, user="leo")[1] if made_by == "the server" else stack.token("leo")
    with Held(stack, bearer(token)) as held:
        since = done(ask(stack.web[0], token, "/api/token", "DELETE"))
        check_refused(stack, token, "/api/users/leo", since)
        held.check(CloseCode.REVOKED, since)


@pytest.mark.usefixtures("either_way")
async def test_who_logs_out_on_a_socket_is_out_everywhere(stack: Stack) -> None:
    token = stack.token("lou")
    with Held(stack, bearer(token)) as held:
        async with dial(stack.web[0], token) as lou:
            await lou.send(action="logout")
            assert await lou.end() == (CloseCode.REVOKED, "logged out")
            since = time.time()
        await asyncio.to_thread(check_refused, stack, token, "/api/users/lou", since)
        await asyncio.to_thread(held.check, CloseCode.REVOKED, since)


async def test_a_service_does_not_log_out_on_a_socket(stack: Stack) -> None:
    async with dial(stack.web[0], stack.api_key) as service:
        assert (await service.ask("error", action="logout"))["code"] == "denied"
        await service.ask("pong", action="ping")


@pytest.mark.usefixtures("either_way")
def test_a_revoked_api_key_is_refused_and_what_it_opened_ends(stack: Stack) -> None:
    key = stack.manage("apikey", "create", "short-lived").strip()
    prefix = key.split("_")[1]
    with Held(stack, bearer(key), topics="all") as held, Held(stack, bearer(stack.api_key), topics="all") as others:
        code = f"call_command('apikey', 'revoke', '{prefix}'); print(time.time())"
        said = stack.python(f"import time; from django.core.management import call_command; {code}")
        since = float(said.split()[-1])
        check_refused(stack, key, "/api/tokens", since)
        held.check(CloseCode.REVOKED, since)
        assert others.still_open()


@pytest.mark.parametrize(
    "what",
    [
        "user.is_active = False; user.save()",
        "user.is_staff = False; user.save()",
        "user.set_password('new'); user.save()",
        "client.logout()",
        "user.delete()",
    ],
)
def test_an_operator_who_is_disabled_or_signs_out_is_out(stack: Stack, what: str) -> None:
    setup = (
        "import sys, time; from django.contrib.auth.models import User; from django.test import Client;"
        "client = Client(); user, _ = User.objects.get_or_create(username='olga', defaults={'is_staff': True});"
        "User.objects.filter(pk=user.pk).update(is_staff=True, is_active=True, is_superuser=True);"
        "user.refresh_from_db();"
    )
    # The one session is made first; what ends it is done in a process that has found it again.
    cookie = stack.python(f"{setup} client.force_login(user); print(client.cookies['sessionid'].value)").strip()
    headers = (f"Cookie: sessionid={cookie}", "Sec-Fetch-Site: same-origin")
    with Held(stack, *headers, topics="all") as held:
        found = f"client.cookies['sessionid'] = '{cookie}'; {what}; print(time.time())"
        since = float(stack.python(setup + found))
        for web in stack.web:
            reply = http.get(f"{web.url}/api/tokens", headers=dict(line.split(": ", 1) for line in headers))
            assert reply.status_code in (401, 403)
        held.check(CloseCode.REVOKED, since)


@pytest.mark.usefixtures("either_way")
def test_an_erased_user_is_out_and_a_token_of_later_is_good(stack: Stack) -> None:
    token = stack.token("erna")
    with Held(stack, bearer(token)) as held:
        since = done(ask(stack.web[0], stack.api_key, "/api/users/erna", "DELETE"))
        check_refused(stack, token, "/api/users/erna", since)
        held.check(CloseCode.REVOKED, since)
    assert all(ask(web, stack.token("erna"), "/api/poll").status_code == 200 for web in stack.web)


# --- What ends connections only -------------------------------------------------------------------


@pytest.mark.usefixtures("either_way")
def test_a_user_who_is_kicked_out_has_a_good_credential_still(stack: Stack) -> None:
    token = stack.token("kim")
    with Held(stack, bearer(token)) as held, Held(stack, bearer(stack.token("kimberly"))) as others:
        since = done(ask(stack.web[0], stack.api_key, "/api/presence/kim/connections", "DELETE"))
        held.check(CloseCode.KICKED, since)
        assert others.still_open()
    for web in stack.web:
        eventually(lambda web=web: not inside(web)["connections"], PATIENCE)  # type: ignore[misc]
    with Held(stack, bearer(token)) as back:
        assert all(ask(web, token, "/api/users/kim").status_code == 200 for web in stack.web)
        time.sleep(SECOND)
        assert back.still_open()


@pytest.mark.usefixtures("either_way")
async def test_a_kick_of_one_connection_leaves_the_others(stack: Stack) -> None:
    token = stack.token("kai")
    with Held(stack, bearer(token)) as others:
        for web in stack.web:
            async with dial(web, token) as kai:
                path = f"/api/connections/{kai.events[0]['connectionId']}"
                assert ask(stack.web[0], token, path, "DELETE").status_code == 403
                since = done(ask(stack.web[0], stack.api_key, path, "DELETE"))
                code, _ = await kai.end()
                assert (code, time.time() - since <= SECOND) == (CloseCode.KICKED, True)
        assert others.still_open()
        assert ask(stack.web[0], token, "/api/users/kai").status_code == 200


def put_account(stack: Stack, user: str) -> float:
    return done(ask(stack.web[0], stack.api_key, f"/api/users/{user}", "PUT", json={"account": "new"}))


def come_with_another_account(stack: Stack, user: str) -> float:
    return done(ask(stack.web[0], stack.token(user, "new"), f"/api/users/{user}"))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("move", [put_account, come_with_another_account])
def test_a_user_who_moves_comes_back_into_the_new_account(stack: Stack, move: Callable[[Stack, str], float]) -> None:
    user = f"mia-{move.__name__}-{time.time_ns()}"
    old, silent = stack.token(user, "old"), stack.token(user)
    with Held(stack, bearer(old)) as held, Held(stack, bearer(silent)) as also:
        since = move(stack, user)
        held.check(CloseCode.TOKEN_EXPIRED, since)
        also.check(CloseCode.TOKEN_EXPIRED, since)
    for web in stack.web:
        with Raw(web.port) as client:  # What the old credential says is old.
            client.send(upgrade("/ws/", bearer(old)))
            client.head()
            assert client.close_code() == CloseCode.TOKEN_EXPIRED
        assert ask(web, old, "/api/poll").json()["error"]["code"] == "token_expired"
        for token in (silent, stack.token(user, "new"), stack.token(user)):
            with Raw(web.port) as client:
                client.send(upgrade("/ws/", bearer(token)))
                client.head()
                assert set(client.event("welcome")["topics"]) == {f"user.{user}", "account.new", "all"}
            refused = ask(web, token, "/api/poll?topics=account.old")
            assert refused.status_code == 403


# --- The end of a credential, and a fresh one -----------------------------------------------------


@pytest.mark.parametrize("way", ["stream", "poll"])
def test_a_stream_and_a_poll_end_when_their_credential_does(stack: Stack, way: str) -> None:
    token = stack.token("ella", ttl=3)
    ends_at = int(time.time()) + 3
    web = stack.web[0]
    since = ask(web, token, "/api/poll").json()["since"]
    path = "/api/stream" if way == "stream" else f"/api/poll?wait=20&since={since}"
    with Raw(web.port) as client:
        client.send(request(path, "Connection: close", bearer(token)))
        assert b'"event":"closed","code":4401' in client.rest()
        assert -0.1 <= time.time() - ends_at <= 1.5


async def test_a_fresh_token_keeps_a_socket_open_beyond_the_old_ones_end_without_a_gap(stack: Stack) -> None:
    async with dial(stack.web[0], stack.token("fred", ttl=8)) as fred:
        said = await fred.ask("ok", action="refresh", token=stack.token("fred", ttl=12))
        ends_at = said["expires_at"]
        number = 0
        while time.time() < ends_at - 1:
            stack.send({"user": "fred"}, number)
            number += 1
            await asyncio.sleep(0.1)
            await fred.next(data=number - 1)
        assert (await fred.end())[0] == CloseCode.TOKEN_EXPIRED
        assert -0.1 <= time.time() - ends_at <= 1.5
        assert fred.data() == list(range(number))
        assert [e["event"] for e in fred.events if e["event"] in ("unsubscribed", "reset")] == []


async def test_a_refresh_refuses_what_is_no_fresh_credential_of_the_same_user(stack: Stack) -> None:
    token_id, revoked = new_token(stack, user="greta")
    revoke_token(stack, token_id)
    await asyncio.sleep(SECOND)
    _, scoped = new_token(stack, user="greta", topics=["topic.news"])
    async with dial(stack.web[0], stack.token("greta", ttl=60)) as greta:
        for token, code in (
            (stack.token("gustav"), "wrong_user"),
            (scoped, "wrong_user"),
            (stack.api_key, "wrong_user"),
            ("nonsense", "unauthenticated"),
            (stack.token("greta")[:-3] + "abc", "unauthenticated"),
            (stack.token("greta", ttl=-1), "token_expired"),
            (revoked, "unauthenticated"),
        ):
            assert (await greta.ask("error", action="refresh", token=token))["code"] == code
        stack.send({"user": "greta"}, "still here")
        await greta.next(data="still here")
    async with dial(stack.web[0], stack.api_key) as service:
        assert (await service.ask("error", action="refresh", token=stack.api_key))["code"] == "wrong_user"


async def test_a_refresh_drops_the_topics_that_the_fresh_token_does_not_open(stack: Stack) -> None:
    wide = stack.token("hans", subscribe=["topic.one", "topic.two"])
    _, granted = new_token(stack, topics=["topic.granted"])
    async with dial(stack.web[0], wide, topics="topic.one,topic.two,all") as hans:
        await hans.ask("subscribed", action="subscribe", topic="topic.granted", token=granted)
        await hans.send(action="refresh", token=stack.token("hans", subscribe=["topic.two"]))
        assert (await hans.next("unsubscribed"))["topic"] == "topic.one"
        for topic in ("one", "two", "granted"):
            stack.send({"topic": topic}, topic)
        await hans.next(data="granted")
        await hans.silence()
        assert sorted(hans.data()) == ["granted", "two"]
        assert (await hans.ask("error", action="subscribe", topic="topic.one"))["code"] == "denied"


@pytest.mark.usefixtures("either_way")
async def test_after_a_refresh_the_new_token_counts_and_the_old_one_no_more(stack: Stack) -> None:
    old_id, old = new_token(stack, user="ida")
    new_id, new = new_token(stack, user="ida")
    async with dial(stack.web[1], old) as ida:
        await ida.ask("ok", action="refresh", token=new)
        revoke_token(stack, old_id)
        await ida.silence(SECOND + 0.2)
        since = revoke_token(stack, new_id)
        assert (await ida.end())[0] == CloseCode.REVOKED
        assert time.time() - since <= SECOND


# --- Topics that a token opens --------------------------------------------------------------------


async def test_a_token_adds_the_topic_that_is_named_and_no_other(stack: Stack) -> None:
    _, token = new_token(stack, user="jan", topics=["topic.a", "topic.b"])
    _, foreign = new_token(stack, user="jane", topics=["topic.a"])
    async with dial(stack.web[0], stack.token("jan")) as jan:
        refused = await jan.ask("error", action="subscribe", topic="topic.a", token=foreign)
        assert refused["code"] == "wrong_user"
        await jan.ask("subscribed", action="subscribe", topic="topic.a", token=token)
        assert (await jan.ask("error", action="subscribe", topic="topic.b"))["code"] == "denied"
        assert (await jan.ask("error", action="subscribe", topic="topic.c", token=token))["code"] == "denied"
        bad = await jan.ask("error", action="subscribe", topic="topic.a", token="nonsense")
        assert bad["code"] == "unauthenticated"
        stack.send({"topic": "b"}, "b")
        stack.send({"topic": "a"}, "a")
        await jan.next(data="a")
        assert jan.data() == ["a"]


async def left(client: Socket, topic: str) -> float:
    """Waits until the server takes the topic away; the connection stays -> when."""
    assert (await client.next("unsubscribed", topic=topic)).keys() == {"event", "topic"}
    at = time.time()
    await client.ask("pong", action="ping")
    return at


@pytest.mark.usefixtures("either_way")
async def test_a_topic_leaves_with_the_token_that_opened_it(stack: Stack) -> None:
    name = f"topic.brief-{time.time_ns()}"
    async with dial(stack.web[1], stack.token("kate")) as kate:
        brief = stack.token("kate", ttl=3, subscribe=[name])
        ends_at = int(time.time()) + 3
        await kate.ask("subscribed", action="subscribe", topic=name, token=brief)
        assert abs(await left(kate, name) - ends_at) <= 1.5
        assert (await kate.ask("error", action="subscribe", topic=name))["code"] == "denied"
        token_id, token = new_token(stack, topics=[name])
        await kate.ask("subscribed", action="subscribe", topic=name, token=token)
        assert name in inside(stack.web[1])["topics"]
        since = revoke_token(stack, token_id)
        assert await left(kate, name) - since <= SECOND
        assert name not in inside(stack.web[1])["topics"]


async def test_a_topic_that_is_left_or_entered_anew_does_not_depend_on_the_token_any_more(stack: Stack) -> None:
    web = stack.web[0]
    first_id, first = new_token(stack, topics=["topic.t"])
    second_id, second = new_token(stack, topics=["topic.t"])
    async with dial(web, stack.token("lena", subscribe=["topic.t"])) as lena:

        async def enter(token: str | None) -> None:
            more = {} if token is None else {"token": token}
            await lena.ask("subscribed", action="subscribe", topic="topic.t", **more)

        await enter(first)
        assert f"token:{first_id}" in inside(web)["watched"]
        await lena.ask("unsubscribed", action="unsubscribe", topic="topic.t")
        assert f"token:{first_id}" not in inside(web)["watched"]
        await enter(first)
        await enter(second)
        revoke_token(stack, first_id)
        await enter(None)  # By the right of the connection itself.
        revoke_token(stack, second_id)
        await lena.silence(SECOND + 0.2)
        assert [e for e in lena.events if e["event"] == "unsubscribed" and "ref" not in e] == []
        assert "token:" not in str(inside(web)["watched"])


# --- Tickets --------------------------------------------------------------------------------------


def new_ticket(web: Web, credential: str) -> str:
    return str(ask(web, credential, "/api/tickets", "POST").json()["ticket"])


@pytest.mark.parametrize("way", WAYS)
def test_a_ticket_opens_one_connection_once(stack: Stack, way: str) -> None:
    token = stack.token("tina")
    ticket = new_ticket(stack.web[0], token)
    path = "/ws/" if way == "socket" else f"/api/{way}"
    web = stack.web[1]
    with Raw(web.port) as client, Raw(web.port) as second:
        client.send((upgrade if way == "socket" else request)(f"{path}?ticket={ticket}"))
        assert client.head()[0] == (101 if way == "socket" else 200)
        if way == "socket":
            assert client.event("welcome")["user"] == "tina"
        second.send((upgrade if way == "socket" else request)(f"{path}?ticket={ticket}"))
        assert second.head()[0] == (101 if way == "socket" else 401)
        if way == "socket":
            assert second.close_code() == CloseCode.TOKEN_EXPIRED  # Come back with a fresh one.


@pytest.mark.usefixtures("either_way")
def test_what_a_ticket_opened_ends_with_the_credential_that_it_stood_for(stack: Stack) -> None:
    token_id, token = new_token(stack, user="tom")
    ticket, unused = (new_ticket(stack.web[0], token) for _ in range(2))
    with Raw(stack.web[1].port) as client:
        client.send(upgrade(f"/ws/?ticket={ticket}"))
        client.head()
        client.event("welcome")
        since = revoke_token(stack, token_id)
        assert client.close_code() == CloseCode.REVOKED
        assert time.time() - since <= SECOND
    assert http.get(f"{stack.web[1].url}/api/poll?ticket={unused}").status_code == 401


# --- The session of an operator -------------------------------------------------------------------


@pytest.mark.parametrize("way", ["stream", "poll"])
def test_a_session_opens_a_stream_and_a_poll_on_a_page_of_ours_only(stack: Stack, way: str) -> None:
    cookie = stack.python(
        "from django.contrib.auth.models import User; from django.test import Client; client = Client();"
        "client.force_login(User.objects.get_or_create(username='olaf', is_staff=True)[0]);"
        "print(client.cookies['sessionid'].value)"
    ).strip()
    web = stack.web[0]
    for headers, status in (
        (["Sec-Fetch-Site: same-origin"], 200),
        ([f"Origin: {web.url}"], 200),
        (["Sec-Fetch-Site: same-site"], 401),
        (["Sec-Fetch-Site: cross-site"], 401),
        (["Sec-Fetch-Site: none"], 401),
        (["Origin: https://evil.example", "Sec-Fetch-Site: same-origin"], 401),
        (["Origin: null"], 401),
        ([], 401),
    ):
        with Raw(web.port) as client:
            head = f"GET /api/{way}?topics=all HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\n"
            lines = "".join(f"{line}\r\n" for line in [f"Cookie: sessionid={cookie}", *headers])
            client.send(f"{head}{lines}\r\n".encode())
            assert client.head()[0] == status, headers


# --- Nothing stays --------------------------------------------------------------------------------


async def test_of_200_connections_that_come_and_go_nothing_stays(stack: Stack) -> None:
    web = stack.web[0]
    _, granted = new_token(stack, topics=["topic.t"])

    async def come_and_go(number: int) -> None:
        token = stack.token(f"nina-{number % 20}")
        if number % 3:
            async with dial(web, token) as nina:
                await nina.ask("subscribed", action="subscribe", topic="topic.t", token=granted)
                await nina.ask("ok", action="refresh", token=stack.token(f"nina-{number % 20}", ttl=60))
        else:
            await asyncio.to_thread(_open_and_leave, web, token)

    for start in range(0, 200, 20):
        await asyncio.gather(*(come_and_go(number) for number in range(start, start + 20)))
    await asyncio.to_thread(eventually, lambda: inside(web)["watched"] == [], PATIENCE)


def _open_and_leave(web: Web, token: str) -> None:
    with Raw(web.port) as client:
        client.send(request("/api/stream", bearer(token)))
        assert client.head()[0] == 200


# --- Control by itself ----------------------------------------------------------------------------

Endings = list[tuple[CloseCode, str]]


def somebody(**fields: Any) -> Principal:
    named: dict[str, Any] = {"credential": f"token:{time.time_ns()}", "issued_at": time.time()}
    return Principal(Kind.TOKEN, "t", **(named | fields))


def recorder() -> tuple[Endings, Callable[[CloseCode, str], object]]:
    endings: Endings = []
    return endings, lambda code, reason: endings.append((code, reason))


@pytest.fixture
def no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' revocations were rolled back: SQLite gives their ids out again."""
    monkeypatch.setattr(revocations, "_known", revocations._Known(listeners=[*revocations._known.listeners]))


def read_now() -> None:
    """Reads what was revoked, however short ago that was done."""
    revocations._known._read_at = -revocations.REFRESH_SECONDS
    revocations.refresh()


async def test_what_is_watched_ends_when_it_expires_and_not_before() -> None:
    control, (endings, end) = Control(), recorder()
    with control.watching(somebody(expires_at=time.time() + 0.1), end, "c"):
        await asyncio.sleep(0.05)
        assert endings == []
        await asyncio.sleep(0.1)
        assert [code for code, _ in endings] == [CloseCode.TOKEN_EXPIRED]
    with control.watching(somebody(expires_at=time.time() - 5), end, "c"):
        await asyncio.sleep(0.01)
        assert len(endings) == 2
    with control.watching(somebody(expires_at=time.time() + 0.05), end, "c"):
        pass
    await asyncio.sleep(0.1)
    assert len(endings) == 2
    assert control._watches == {}


@pytest.mark.parametrize(
    ("reason", "issued", "code"),
    [
        (Reason.REVOKED, 0, CloseCode.REVOKED),
        (Reason.REVOKED, 1, None),  # Issued later than what is meant.
        (Reason.LOGGED_OUT, -1, CloseCode.REVOKED),
        (Reason.ERASED, 1, None),
        (Reason.MOVED, 0, CloseCode.TOKEN_EXPIRED),
        (Reason.MOVED, 1, None),  # The one that has moved the user.
        (Reason.KICKED, 1, CloseCode.KICKED),
    ],
)
async def test_news_end_what_they_name(reason: Reason, issued: int, code: CloseCode | None) -> None:
    control, (endings, end), (others, other_end) = Control(), recorder(), recorder()
    named = somebody(credential="token:named", issued_at=1000.0 + issued)
    with control.watching(named, end, "c"), control.watching(somebody(), other_end, "d"):
        control._end([revocations.Ended("token:named", reason, 1000.0, 2000.0)])
    assert [code for code, _ in endings] == ([] if code is None else [code])
    assert others == []


async def test_a_connection_is_named_by_its_id_and_a_topics_grant_never() -> None:
    control, (endings, end), (others, other_end) = Control(), recorder(), recorder()
    with (
        control.watching(somebody(), end, "a"),
        control.watching(somebody(), other_end, "b"),
        control.watching(somebody(), other_end, ""),
    ):
        control._end([revocations.Ended("connection:a", Reason.KICKED, 0.0, 0.0)])
    assert {code for code, _ in endings} == {CloseCode.KICKED}
    assert others == []


def test_every_reason_has_an_ending() -> None:
    assert set(ENDINGS) == set(Reason)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_news")
@pytest.mark.parametrize("what", ["revoked", "logged out", "erased", "moved", "moved by a credential", "nothing"])
def test_what_happens_between_authentication_and_the_watch_is_not_missed(what: str) -> None:
    user = f"u{time.time_ns()}"
    row, text = tokens.issue(None, ttl=60, user=user, account="old")
    principal = credentials.from_bearer(text)
    match what:
        case "revoked":
            tokens.revoke(None, row)
        case "logged out":
            credentials.log_out(principal)
        case "erased":
            users.erase(None, user)
        case "moved":
            users.change(None, user, UserChange(account="new"))
        case "moved by a credential":
            credentials.from_bearer(mint(user, "new", ttl=60))
    read_now()  # Before the watch: the news find nobody to end.

    async def watch() -> Endings:
        endings, end = recorder()
        with Control().watching(principal, end, "c"):
            for _ in range(20 if what == "nothing" else 500):
                await asyncio.sleep(0 if endings else 0.01)
        return endings

    endings = asyncio.run(watch())
    assert [code for code, _ in endings] == ([] if what == "nothing" else [CloseCode.TOKEN_EXPIRED])


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("no_news")
async def test_a_request_that_has_just_read_the_news_does_not_put_them_off_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("accounts.revocations", "realtime.control"):
        monkeypatch.setattr(f"{module}.REFRESH_SECONDS", 1.0)
    control, (endings, end), principal = Control(), recorder(), somebody()
    await asyncio.to_thread(_in_a_thread, read_now)
    control.start()
    try:
        with control.watching(principal, end, "c"):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(_in_a_thread, read_now)  # As a request does.
            await asyncio.to_thread(_in_a_thread, lambda: _revoke_elsewhere(principal))
            since = time.monotonic()
            while not endings:
                await asyncio.sleep(0.005)
        assert time.monotonic() - since < 1.5
    finally:
        await control.stop()


def _revoke_elsewhere(principal: Principal) -> None:
    """As another process does: this one has not heard of it."""
    expires_at = datetime.now(UTC) + timedelta(minutes=1)
    Revocation.objects.create(subject=principal.credential, reason=Reason.REVOKED, expires_at=expires_at)


def _in_a_thread(work: Callable[[], None]) -> None:
    work()
    connection.close()
