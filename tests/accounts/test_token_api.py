"""Tokens over the API: never more than their maker has, never for longer, and over when they are revoked."""

import time
from typing import Any

import jwt
import pytest
from django.conf import LazySettings, settings

from accounts import tokens
from accounts.models import AuditEntry, Revocation, Token
from accounts.principals import Kind, Principal
from tests.accounts.calling import Api, service, user, who
from tests.accounts.jwks_server import JwksServer, signing_key
from tests.accounts.spoiled_tokens import ISSUER, good

pytestmark = pytest.mark.django_db

committed = pytest.mark.django_db(transaction=True)

UNKNOWN = "01890000-0000-7000-8000-000000000000"
FORBIDDEN = (403, "denied")
UNAUTHENTICATED = (401, "unauthenticated")


@pytest.fixture
def backend() -> Api:
    return service()


@pytest.fixture
def alice() -> Api:
    return user("alice", "acme", subscribe=["topic.room/*", "topic.news"], publish=["topic.room/7"])


def made(by: Api, **wanted: Any) -> Api:
    """The holder of a new token."""
    return Api(by.does("POST", "tokens", wanted)["token"])


def seconds_left(token: str) -> float:
    return float(jwt.decode(token, options={"verify_signature": False})["exp"] - time.time())


def log_of(api: Api, topic: str) -> int:
    return api("GET", f"topics/{topic}/messages").status_code


# --- GET /api/token -------------------------------------------------------------------------------


def test_a_user_gets_a_token_to_listen_with(alice: Api) -> None:
    reply = alice.does("GET", "token")
    assert set(reply) == {"endpoint", "token", "cacheName", "expiresAt"}
    assert reply["endpoint"] == "ws://testserver/ws/"
    assert isinstance(reply["expiresAt"], int)
    assert 1795 < reply["expiresAt"] - time.time() <= 1800
    holder = who(Api(reply["token"]))
    assert (holder.kind, holder.holder, holder.publish, holder.scopes) == (Kind.TOKEN, "alice", (), frozenset())
    assert holder.own_topics == list(holder.subscribe) == ["user.alice", "account.acme", "all"]
    assert holder.expires_at == reply["expiresAt"]


def test_a_service_says_for_whom(backend: Api, alice: Api) -> None:
    who(alice)
    assert who(Api(backend.does("GET", "token", user="alice")["token"])).own_topics == [
        "user.alice",
        "account.acme",
        "all",
    ]
    assert who(Api(backend.does("GET", "token", user="new")["token"])).own_topics == ["user.new", "all"]
    assert backend.refusal("GET", "token") == (400, "malformed")
    assert backend.refusal("GET", "token", user="a,b") == (400, "malformed")
    assert service("users:read", "tokens:read").refusal("GET", "token", user="alice") == (403, "scope_missing")


def test_a_user_gets_a_token_for_nobody_else(alice: Api) -> None:
    assert alice.does("GET", "token", user="alice")
    assert alice.refusal("GET", "token", user="bob") == FORBIDDEN


def test_only_our_own_provider_is_configured(alice: Api) -> None:
    assert alice.does("GET", "token", provider="fanfare")
    assert alice.refusal("GET", "token", provider="momento") == (422, "provider_not_configured")


def test_the_token_ends_with_the_credential_that_it_was_made_with() -> None:
    assert alice_left(user("alice", ttl=100)) <= 100


def alice_left(alice: Api) -> float:
    return seconds_left(alice.does("GET", "token")["token"])


@pytest.mark.parametrize("name", ["al*", "*"])
def test_a_user_whose_id_looks_like_a_pattern_listens_to_nobody_else(name: str) -> None:
    odd = user(name, name)
    holder = who(Api(odd.does("GET", "token")["token"]))
    assert holder.own_topics == ["all"]
    assert not holder.can_subscribe("user.alice")
    assert not holder.can_subscribe("account.alpha")
    for topic in (f"user.{name}", "user.alice", "user.al", f"account.{name}"):
        assert odd.refusal("POST", "tokens", {"topics": [topic]}) == FORBIDDEN


# --- POST /api/tokens -----------------------------------------------------------------------------


def test_a_scoped_token_is_for_its_topics_exactly_or_by_their_beginning(backend: Api) -> None:
    reply = backend.does("POST", "tokens", {"user": "alice", "topics": ["topic.news", "topic.room/*"], "ttl": 60})
    assert set(reply) == {"id", "token", "expires_at"}
    assert 58 < seconds_left(reply["token"]) <= 60
    holder = who(Api(reply["token"]))
    assert (holder.kind, holder.id, holder.holder, holder.acts) == (Kind.TOKEN, reply["id"], "alice", None)
    for topic, may in {
        "topic.news": True,
        "topic.newsroom": False,
        "topic.new": False,
        "topic.room/": True,
        "topic.room/7/8": True,
        "topic.room": False,
        "topic.roomy": False,
        "user.alice": False,
    }.items():
        assert holder.can_subscribe(topic) is may, topic
        assert not holder.can_publish(topic)


@pytest.mark.parametrize(
    ("allow", "subscribes", "publishes"),
    [(["subscribe"], True, False), (["publish"], False, True), (["subscribe", "publish"], True, True)],
)
def test_a_token_allows_what_it_was_made_for(backend: Api, allow: list[str], subscribes: bool, publishes: bool) -> None:
    token = made(backend, topics=["topic.room/*"], allow=allow)
    send = {"to": {"topic": "room/7"}, "data": 1}
    assert (log_of(token, "topic.room/7") == 200) is subscribes
    assert (token("POST", "notifications", send).status_code == 202) is publishes
    assert log_of(token, "topic.other") == 403
    assert token.refusal("POST", "notifications", {"to": {"topic": "other"}, "data": 1})[0] == 403


def test_a_token_without_topics_lets_its_user_act_for_themselves(backend: Api) -> None:
    token = made(backend, user="alice", account="acme")
    assert who(token).kind is Kind.USER
    assert token.does("GET", "users/alice")["account"] == "acme"
    assert log_of(token, "user.alice") == 200
    assert log_of(token, "user.bob") == 403


@pytest.mark.parametrize("ttl", [1, 90_000])
def test_a_token_lives_as_long_as_is_said(backend: Api, ttl: int) -> None:
    assert ttl - 2 < seconds_left(backend.does("POST", "tokens", {"user": "alice", "ttl": ttl})["token"]) <= ttl


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": 90_001},
        {"ttl": "60"},
        {"ttl": 1.5},
        {"ttl": True},
        {"ttl": None},
        {"user": ""},
        {"user": "a,b"},
        {"user": "a\tb"},
        {"user": 7},
        {"user": "ü" * 101},
        {"account": "a,b"},
        {"topics": []},
        {"topics": "topic.x"},
        {"topics": [""]},
        {"topics": ["topic.a,topic.b"]},
        {"topics": ["topic.a\n"]},
        {"topics": ["x" * 221]},
        {"topics": ["topic.x"] * 101},
        {"allow": []},
        {"allow": ["admin"]},
        {"allow": "subscribe"},
        {"scopes": ["admin:write"]},
        {"id": UNKNOWN},
        {"scoped": False},
        {"expires_at": "2030-01-01T00:00:00Z"},
    ],
)
def test_a_request_that_is_not_as_it_should_be_is_refused(backend: Api, wrong: dict[str, Any]) -> None:
    assert backend.refusal("POST", "tokens", {"user": "alice", "topics": ["topic.x"]} | wrong) == (400, "malformed")
    assert not Token.objects.exists()


def test_a_token_is_for_a_user_or_for_topics(backend: Api) -> None:
    assert backend.refusal("POST", "tokens", {}) == (422, "refused")
    assert backend.refusal("POST", "tokens", {"account": "acme"}) == (422, "refused")
    assert service("tokens:read").refusal("POST", "tokens", {"user": "alice"}) == (403, "scope_missing")


# --- A user passes on a part ----------------------------------------------------------------------


def test_a_user_passes_on_a_part_of_what_they_have(alice: Api) -> None:
    for topics in (["user.alice"], ["account.acme", "all"], ["topic.room/*"], ["topic.room/7/*", "topic.news"]):
        holder = who(made(alice, topics=topics, user="alice", account="acme"))
        assert (holder.kind, holder.holder, holder.account) == (Kind.TOKEN, "alice", "acme")
        assert holder.subscribe == tuple(topics)
        assert holder.publish == ()
    assert who(made(alice, topics=["topic.room/7"], allow=["publish"])).publish == ("topic.room/7",)
    assert who(made(alice, topics=["topic.room/7"], allow=["publish", "subscribe"])).can_subscribe("topic.room/7")


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"user": "alice"},
        {"user": "bob", "topics": ["user.alice"]},
        {"account": "globex", "topics": ["user.alice"]},
        {"topics": ["user.bob"]},
        {"topics": ["user.alice", "user.bob"]},
        {"topics": ["user.alice*"]},
        {"topics": ["user.*"]},
        {"topics": ["*"]},
        {"topics": ["a*"]},
        {"topics": ["all*"]},
        {"topics": ["account.globex"]},
        {"topics": ["account.acme*"]},
        {"topics": ["topic.room"]},
        {"topics": ["topic.room*"]},
        {"topics": ["topic.news*"]},
        {"topics": ["topic.newsroom"]},
        {"topics": ["user.alice"], "allow": ["publish"]},
        {"topics": ["topic.room/8"], "allow": ["publish"]},
        {"topics": ["topic.room/7*"], "allow": ["publish"]},
        {"topics": ["topic.room/*"], "allow": ["subscribe", "publish"]},
    ],
)
def test_a_user_never_passes_on_more_than_they_have(alice: Api, wanted: dict[str, Any]) -> None:
    assert alice.refusal("POST", "tokens", wanted) == FORBIDDEN
    assert not Token.objects.exists()


def test_a_user_s_token_does_not_outlive_their_credential() -> None:
    alice = user("alice", ttl=100)
    reply = alice.does("POST", "tokens", {"topics": ["user.alice"], "ttl": 3600})
    assert who(Api(reply["token"])).expires_at <= (who(alice).expires_at or 0)  # type: ignore[operator]
    assert seconds_left(alice.does("POST", "tokens", {"topics": ["user.alice"], "ttl": 10})["token"]) <= 10


def test_the_holder_of_a_scoped_token_makes_sees_and_ends_none(backend: Api, alice: Api) -> None:
    token = made(alice, topics=["user.alice"])
    other = backend.does("POST", "tokens", {"user": "alice"})["id"]
    assert token.refusal("GET", "token") == FORBIDDEN
    assert token.refusal("POST", "tokens", {"topics": ["user.alice"]}) == FORBIDDEN
    assert token.refusal("GET", "tokens") == FORBIDDEN
    assert token.refusal("DELETE", f"tokens/{other}") == FORBIDDEN


def test_the_holder_of_a_scoped_token_reads_its_topics_and_nothing_of_its_user(backend: Api) -> None:
    for to in ({"user": "alice"}, {"topic": "room"}):
        backend.does("POST", "notifications", {"to": to, "data": 1})
    backend.does("PUT", "users/alice", {"name": "Alice"})
    (own,) = backend.does("GET", "notifications", user="alice")["messages"]
    token = made(backend, user="alice", topics=["topic.room"])
    assert len(token.does("GET", "topics/topic.room/messages")["messages"]) == 1
    assert len(token.does("GET", "notifications", topic="topic.room")["messages"]) == 1
    assert log_of(token, "user.alice") == log_of(token, "all") == 403
    assert token.refusal("GET", "notifications")[0] == 403
    assert token.refusal("GET", "notifications", user="alice")[0] == 403
    assert token.refusal("GET", f"notifications/{own['id']}")[0] in (403, 404)
    assert token.refusal("GET", "users/alice") == (403, "scope_missing")
    for path in ("inbox", "inbox?unread=1"):
        assert token("GET", path).status_code in (403, 404)


# --- GET and DELETE /api/tokens -------------------------------------------------------------------


def test_tokens_are_listed_newest_first_in_pages(backend: Api) -> None:
    ids = [backend.does("POST", "tokens", {"user": "alice"})["id"] for _ in range(5)][::-1]
    seen: list[str] = []
    cursor: dict[str, str] = {}
    for size in (2, 2, 1):
        page = backend.does("GET", "tokens", limit=2, **cursor)
        assert len(page["tokens"]) == size
        seen += [token["id"] for token in page["tokens"]]
        cursor = {"cursor": page["next"]}
    assert page["next"] is None
    assert seen == ids
    assert backend.does("GET", "tokens", limit=5)["next"] is None


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "x"}, {"cursor": "x"}, {"cursor": "é"}, {"cursor": ""}])
def test_a_page_that_is_none_is_refused(backend: Api, query: dict[str, str]) -> None:
    assert backend.refusal("GET", "tokens", **query) == (400, "malformed")


def test_what_is_listed_of_a_token_does_not_hold_it(backend: Api) -> None:
    text = backend.does("POST", "tokens", {"user": "alice", "account": "acme", "topics": ["topic.x"]})["token"]
    (token,) = backend.does("GET", "tokens", user="alice")["tokens"]
    assert (token["user"], token["account"], token["subscribe"], token["publish"]) == (
        "alice", "acme", ["topic.x"], [],
    )  # fmt: skip
    assert token["created_by"] == str(who(backend))
    parts = [text, *text.split(".")[1:]]
    assert not any(part in str(token) for part in parts)
    for model in (Token, AuditEntry, Revocation):
        assert not any(part in str(list(model._default_manager.values())) for part in parts)


def test_a_user_sees_and_ends_only_their_own_tokens(backend: Api, alice: Api) -> None:
    of_alice = backend.does("POST", "tokens", {"user": "alice"})["id"]
    of_bob = backend.does("POST", "tokens", {"user": "bob"})["id"]
    of_nobody = backend.does("POST", "tokens", {"topics": ["topic.x"]})["id"]
    assert [token["id"] for token in alice.does("GET", "tokens")["tokens"]] == [of_alice]
    assert [token["id"] for token in alice.does("GET", "tokens", user="bob")["tokens"]] == [of_alice]
    for other in (of_bob, of_nobody, UNKNOWN):
        assert alice.refusal("DELETE", f"tokens/{other}") == (404, "unknown_token")
    alice.does("DELETE", f"tokens/{of_alice}")
    assert {token["id"] for token in backend.does("GET", "tokens")["tokens"]} == {of_bob, of_nobody}


def test_a_service_needs_the_scopes(backend: Api) -> None:
    token = backend.does("POST", "tokens", {"user": "alice"})["id"]
    assert service("tokens:write").refusal("GET", "tokens") == (403, "scope_missing")
    assert service("tokens:read").refusal("DELETE", f"tokens/{token}") == (403, "scope_missing")
    assert service("tokens:read").does("GET", "tokens")["tokens"]
    assert backend.refusal("DELETE", f"tokens/{UNKNOWN}") == (404, "unknown_token")
    assert backend.refusal("DELETE", "tokens/x")[0] == 404


@committed
def test_a_revoked_token_is_refused_at_once(backend: Api) -> None:
    reply = backend.does("POST", "tokens", {"user": "alice"})
    token, other = Api(reply["token"]), made(backend, user="alice")
    assert token.does("GET", "users/alice")
    backend.does("DELETE", f"tokens/{reply['id']}")
    assert token.refusal("GET", "users/alice") == UNAUTHENTICATED
    assert other.does("GET", "users/alice")
    backend.does("DELETE", f"tokens/{reply['id']}")
    assert AuditEntry.objects.filter(action="token.revoked").count() == 1


def test_tokens_that_have_expired_are_forgotten(backend: Api) -> None:
    tokens.issue(None, ttl=-1, user="alice")
    assert backend.does("GET", "tokens")["tokens"] == []
    tokens.purge()
    assert not Token.objects.exists()


# --- DELETE /api/token ----------------------------------------------------------------------------


@committed
def test_who_logs_out_with_a_token_of_ours_ends_it_and_no_other(backend: Api) -> None:
    token, other = made(backend, user="alice"), made(backend, user="alice")
    token.does("DELETE", "token")
    assert token.refusal("GET", "users/alice") == UNAUTHENTICATED
    assert token.refusal("DELETE", "token") == UNAUTHENTICATED
    assert other.does("GET", "users/alice")


@committed
def test_who_logs_out_with_a_scoped_token_ends_it(backend: Api) -> None:
    token = made(backend, user="alice", topics=["topic.x"])
    token.does("DELETE", "token")
    assert log_of(token, "topic.x") == 401


@committed
def test_who_logs_out_with_a_token_that_the_application_signed_ends_it() -> None:
    token, other = user("alice"), user("alice", ttl=3601)
    token.does("DELETE", "token")
    assert token.refusal("GET", "users/alice") == UNAUTHENTICATED
    assert other.does("GET", "users/alice")
    signed, _, signature = token.credential.rpartition(".")
    rewritten = Api(f"{signed}.{signature}=")  # Another way to write the same signature.
    assert rewritten.refusal("GET", "users/alice") == UNAUTHENTICATED


@committed
def test_who_logs_out_with_a_jwt_from_outside_ends_it(settings: LazySettings) -> None:
    key = signing_key("one")
    server = JwksServer(key)
    settings.JWT_ISSUERS = [{"issuer": ISSUER, "jwks_url": server.url, "audiences": ["fanfare"]}]
    try:
        token = Api(key.sign(good()))
        name = who(token).id
        assert token.does("GET", f"users/{name}")
        token.does("DELETE", "token")
        assert token.refusal("GET", f"users/{name}") == UNAUTHENTICATED
        assert Api(key.sign(good(jti="another"))).does("GET", f"users/{name}")
    finally:
        server.stop()


def test_services_do_not_log_out(backend: Api) -> None:
    assert backend.refusal("DELETE", "token") == FORBIDDEN
    assert Api(None).refusal("DELETE", "token") == UNAUTHENTICATED


def test_a_token_that_the_application_signed_with_an_id_is_ended_by_it() -> None:
    claims = {"iss": "fanfare", "sub": "alice", "exp": int(time.time()) + 60, "jti": "my own"}
    token = jwt.encode(claims, settings.TOKEN_SIGNING_KEY, algorithm="HS256")
    assert who(Api(token)) == Principal(
        Kind.USER, "alice", expires_at=float(claims["exp"]), credential="token:my own"  # type: ignore[arg-type]
    )  # fmt: skip
