"""User tokens: only ours, only whole, only in time."""

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
import time_machine
from django.conf import settings

from accounts import tokens
from accounts.principals import Kind
from tests.credentials import mint

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


def signed(claims: dict[str, Any], key: str | None = None, algorithm: str = "HS256", **header: Any) -> str:
    return jwt.encode(claims, key or settings.TOKEN_SIGNING_KEY, algorithm=algorithm, headers=header or None)


def good(**claims: Any) -> dict[str, Any]:
    return {"iss": "fanfare", "sub": "alice", "exp": int(NOW.timestamp()) + 60} | claims


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in good().items() if key != name}


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


# --- Good -----------------------------------------------------------------------------------------


def test_a_token_names_its_user_its_account_and_its_capabilities() -> None:
    text = mint("alice", "acme", ttl=60, subscribe=["topic.room/*", "topic.news"], publish=["topic.room/7"])
    principal = tokens.verify(text)
    assert (principal.kind, principal.id, principal.user, principal.account) == (Kind.USER, "alice", "alice", "acme")
    assert principal.expires_at == NOW.timestamp() + 60
    assert principal.scopes == frozenset()
    assert principal.can_subscribe("topic.room/7")
    assert principal.can_subscribe("topic.news")
    assert not principal.can_subscribe("topic.newsroom")
    assert not principal.can_subscribe("topic.room")
    assert principal.can_publish("topic.room/7")
    assert not principal.can_publish("topic.room/77")


def test_a_plain_token_has_no_account_and_no_capability() -> None:
    principal = tokens.verify(mint("alice", ttl=60))
    assert (principal.account, principal.subscribe, principal.publish) == (None, (), ())


@pytest.mark.parametrize("user", ["a", "å" * 100, "x" * 200, "alice@example.org", "a b", "u.1/*"])
def test_a_user_may_be_named_as_the_application_likes(user: str) -> None:
    assert tokens.verify(mint(user, user, ttl=60)).user == user


def test_a_token_ends_with_its_last_second(clock: time_machine.Traveller) -> None:
    text = mint("alice", ttl=60)
    clock.shift(59)
    tokens.verify(text)
    clock.shift(1)
    with pytest.raises(tokens.ExpiredToken):
        tokens.verify(text)


def test_an_expired_token_of_somebody_else_is_not_told_to_come_back() -> None:
    with pytest.raises(tokens.InvalidToken) as refused:
        tokens.verify(signed(good(exp=1), key="another key, and a long one: 32 bytes"))
    assert not isinstance(refused.value, tokens.ExpiredToken)


# --- Not good -------------------------------------------------------------------------------------


def spoiled() -> dict[str, Any]:
    """Made when a test runs: the settings have the key."""
    whole = signed(good())
    head, body, signature = whole.split(".")
    key = settings.TOKEN_SIGNING_KEY
    return {
        "algorithm none": jwt.encode(good(), "", algorithm="none"),
        "algorithm none, with the signature of a good one": f"{part({'alg': 'none'})}.{body}.{signature}",
        "algorithm None": f"{part({'alg': 'None', 'typ': 'JWT'})}.{body}.",
        "no algorithm": f"{part({'typ': 'JWT'})}.{body}.{signature}",
        "an algorithm that is a list": f"{part({'alg': ['HS256']})}.{body}.{signature}",
        "HS512 with our key": signed(good(), algorithm="HS512"),
        "HS384 with our key": signed(good(), algorithm="HS384"),
        "a wrong key": signed(good(), key="another key, and a long one: 32 bytes"),
        "Django's key": signed(good(), key=settings.SECRET_KEY),
        "our key with a line feed": signed(good(), key=key + "\n"),
        "a body that was changed": f"{head}.{part(good(sub='mallory'))}.{signature}",
        "a header that was changed": f"{part({'alg': 'HS256', 'typ': 'jwt'})}.{body}.{signature}",
        "no signature": f"{head}.{body}.",
        "half a signature": whole[:-10],
        "two parts": f"{head}.{body}",
        "four parts": f"{whole}.{signature}",
        "no exp": signed(without("exp")),
        "an exp that is a text": signed(good(exp="tomorrow")),
        "an exp that is null": signed(good(exp=None)),
        "an exp that is a list": signed(good(exp=[])),
        "an exp that is infinite": signed(good(exp=float("inf"))),
        "an exp that is not a number": signed(good(exp=float("nan"))),
        "an exp beyond any clock": signed(good(exp=10**400)),
        "no sub": signed(without("sub")),
        "a sub that is null": signed(good(sub=None)),
        "an empty sub": signed(good(sub="")),
        "a sub with a comma": signed(good(sub="alice,bob")),
        "a sub with a line feed": signed(good(sub="alice\n")),
        "a sub with NUL": signed(good(sub="alice\0")),
        "a sub with a lone surrogate": signed(good(sub="alice\ud800")),
        "a sub of 201 characters": signed(good(sub="x" * 201)),
        "a sub of 202 bytes": signed(good(sub="å" * 101)),
        "an account with a comma": signed(good(account="acme,globex")),
        "an account that is a number": signed(good(account=7)),
        "an empty account": signed(good(account="")),
        "capabilities that are a text": signed(good(subscribe="*")),
        "capabilities that are a mapping": signed(good(publish={"topic.x": True})),
        "capabilities that are numbers": signed(good(subscribe=["topic.x", 7])),
        "not valid yet": signed(good(nbf=int(NOW.timestamp()) + 60)),
        "an extension that we do not know": signed(good(), crit=["x"], x=1),
        "claims that are a list": f"{head}.{part([1])}.{signature}",
        "claims that are no JSON": f"{head}.{part(b'{')}.{signature}",
        "claims that are very deep": f"{head}.{part(b'[' * 3000)}.{signature}",
        "a header that is very deep": f"{part(b'[' * 3000)}.{body}.{signature}",
        "not base64": "a.b.c",
        "not ASCII": whole + "é",
        "NUL": whole + "\0",
        "dots": "..",
        "nothing": "",
        "another scheme of token": "v4.local.AAAA",
    } | {f"a sub that is {value!r}": signed_oddly(good(sub=value)) for value in (7, 1.5, True, ["alice"], {"a": 1})}


def signed_oddly(claims: dict[str, Any]) -> str:
    """What PyJWT refuses to sign, signed all the same."""
    return jwt.api_jws.encode(json.dumps(claims).encode(), settings.TOKEN_SIGNING_KEY, algorithm="HS256")


@pytest.mark.parametrize("which", list(spoiled()))
def test_a_token_that_is_not_ours_or_not_whole_is_refused(which: str) -> None:
    with pytest.raises(tokens.InvalidToken) as refused:
        tokens.verify(spoiled()[which])
    assert not isinstance(refused.value, tokens.ExpiredToken)


def test_a_chain_of_certificates_or_a_key_in_the_header_counts_for_nothing() -> None:
    mallorys = "a key of mallory's own, 32 bytes long"
    jwk = {"kty": "oct", "k": part(mallorys.encode())}
    baits: dict[str, Any] = {
        "x5c": ["A" * 400] * 4,
        "jku": "http://127.0.0.1:9/keys",
        "x5u": "http://127.0.0.1:9/chain",
        "jwk": jwk,
    }
    assert tokens.verify(signed(good(), kid="../../dev/null", **baits)).user == "alice"
    with pytest.raises(tokens.InvalidToken):
        tokens.verify(signed(good(), key=mallorys, kid="../../dev/null", **baits))


@pytest.mark.parametrize("text", ["x" * 2**20, "." * 2**20, "eyJ." * 2**18])
def test_a_token_of_a_megabyte_is_not_even_read(text: str) -> None:
    before = time.process_time_ns()
    with pytest.raises(tokens.InvalidToken):
        tokens.verify(text)
    assert time.process_time_ns() - before < 100_000_000


def test_a_good_token_that_no_header_carries_is_refused() -> None:
    with pytest.raises(tokens.InvalidToken):
        tokens.verify(mint("alice", ttl=60, subscribe=[f"topic.{n}" for n in range(2000)]))
