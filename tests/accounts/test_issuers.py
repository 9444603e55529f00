"""JWTs of outside issuers: only of those in the settings, only as they sign them, whatever their servers do."""

import json
import time
from collections.abc import Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from django.conf import LazySettings

from accounts import issuers, tokens
from accounts.credentials import Unauthenticated, from_bearer
from accounts.errors import ApiError
from accounts.principals import Kind
from tests.accounts.jwks_server import JwksServer, SigningKey, signing_key
from tests.accounts.spoiled_tokens import ISSUER, good, spoiled, without

pytestmark = pytest.mark.any_database

SECRET = "a secret of 32 bytes, for the tests"
DAY = 24 * 3600


@pytest.fixture
def key() -> SigningKey:
    return signing_key("one")


@pytest.fixture
def server(key: SigningKey) -> Iterator[JwksServer]:
    server = JwksServer(key)
    yield server
    if not server.ending.is_set():
        server.stop()


@pytest.fixture
def accepted(settings: LazySettings, server: JwksServer) -> dict[str, Any]:
    """The one entry of JWT_ISSUERS, to be changed by a test."""
    entry = {"issuer": ISSUER, "jwks_url": server.url, "audiences": ["fanfare"]}
    settings.JWT_ISSUERS = [entry]
    return entry


def refused(token: str) -> str:
    """The token is refused, and not as one that has only expired -> what the caller is told."""
    with pytest.raises(tokens.InvalidToken) as error:
        issuers.verify(token)
    assert not isinstance(error.value, tokens.ExpiredToken)
    with pytest.raises(Unauthenticated) as told:
        from_bearer(token)
    return f"{told.value.code}: {told.value}"


# --- Good -----------------------------------------------------------------------------------------


def test_a_token_names_its_user_account_and_times(accepted: dict[str, Any], key: SigningKey) -> None:
    claims = good(account="acme")
    principal = issuers.verify(key.sign(claims))
    assert (principal.kind, principal.id, principal.account) == (Kind.USER, "alice", "acme")
    assert (principal.expires_at, principal.issued_at) == (claims["exp"], claims["iat"])
    assert (principal.scopes, principal.subscribe, principal.publish) == (frozenset(), (), ())


def test_a_token_without_iat_counts_as_very_old(accepted: dict[str, Any], key: SigningKey) -> None:
    assert issuers.verify(key.sign(without("iat"))).issued_at == 0.0


def test_an_issuers_clock_that_is_ahead_does_not_save_a_token_from_revocation(
    accepted: dict[str, Any], key: SigningKey
) -> None:
    assert issuers.verify(key.sign(good(iat=int(time.time()) + 20))).issued_at <= time.time()


def test_topics_in_a_token_count_only_where_the_issuer_may_give_them(accepted: dict[str, Any], key: SigningKey) -> None:
    token = key.sign(good(subscribe=["topic.room/*"], publish=["topic.room/7"]))
    assert not issuers.verify(token).can_subscribe("topic.room/7")
    accepted["capabilities"] = True
    principal = issuers.verify(token)
    assert principal.can_subscribe("topic.room/8")
    assert principal.can_publish("topic.room/7")
    assert not principal.can_publish("topic.room/8")
    refused(key.sign(good(subscribe="*")))
    refused(key.sign(good(publish=["topic.x", 7])))


def test_other_claims_can_name_user_and_account(accepted: dict[str, Any], key: SigningKey) -> None:
    accepted |= {"user_claim": "email", "account_claim": "https://example.com/tenant"}
    principal = issuers.verify(key.sign(good(email="a@example.com", **{"https://example.com/tenant": "acme"})))
    assert (principal.id, principal.account) == ("a@example.com", "acme")
    refused(key.sign(without("sub") | {"email": "a@example.com"}))
    refused(key.sign(good()))


@pytest.mark.parametrize("audience", ["fanfare", ["fanfare"], ["shop", "fanfare"]])
def test_one_of_a_tokens_audiences_has_to_fit(accepted: dict[str, Any], key: SigningKey, audience: Any) -> None:
    assert issuers.verify(key.sign(good(aud=audience))).id == "alice"


def test_an_empty_list_accepts_any_audience_or_none(accepted: dict[str, Any], key: SigningKey) -> None:
    accepted["audiences"] = []
    assert issuers.verify(key.sign(good(aud="shop"))).id == "alice"
    assert issuers.verify(key.sign(without("aud"))).id == "alice"


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_elliptic_curves_serve_too(accepted: dict[str, Any], server: JwksServer, algorithm: str) -> None:
    accepted["algorithms"] = [algorithm]
    curve = signing_key(algorithm, algorithm)
    server.show(signing_key("one"), curve)
    assert issuers.verify(curve.sign(good())).id == "alice"
    refused(signing_key("one").sign(good()))


def test_a_secret_serves_too(settings: LazySettings) -> None:
    settings.JWT_ISSUERS = [{"issuer": "shop", "secret": SECRET, "audiences": []}]
    token = jwt.encode(good(iss="shop"), SECRET)
    assert issuers.verify(token).id == "alice"
    refused(jwt.encode(good(iss="shop"), SECRET[::-1]))
    refused(jwt.encode(good(iss="shop"), SECRET * 2, algorithm="HS512"))
    refused(signing_key("one").sign(good(iss="shop")))


def test_each_of_several_issuers_has_its_own_keys(
    accepted: dict[str, Any], settings: LazySettings, key: SigningKey
) -> None:
    settings.JWT_ISSUERS = [accepted, {"issuer": "shop", "secret": SECRET, "audiences": []}]
    assert issuers.verify(key.sign(good())).id == "alice"
    assert issuers.verify(jwt.encode(good(iss="shop"), SECRET)).id == "alice"
    refused(key.sign(good(iss="shop")))
    refused(jwt.encode(good(), SECRET, headers={"kid": "one"}))


def test_a_token_without_kid_is_checked_with_the_only_key_and_else_refused(
    accepted: dict[str, Any], server: JwksServer, key: SigningKey
) -> None:
    token = key.sign(good(), kid=None)
    assert issuers.verify(token).id == "alice"
    other = JwksServer(key, signing_key("two"))
    accepted["jwks_url"] = other.url
    try:
        refused(token)
        assert issuers.verify(key.sign(good())).id == "alice"
    finally:
        other.stop()


def test_a_token_written_in_another_way_is_the_same_credential(accepted: dict[str, Any], key: SigningKey) -> None:
    token = key.sign(good())
    assert issuers.verify(token).credential == tokens.credential_of(token)
    assert issuers.verify(token + "==").credential == tokens.credential_of(token)
    assert tokens.credential_of(key.sign(good(sub="bob"))) != tokens.credential_of(token)


# --- Not good -------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", list(spoiled()))
def test_a_token_that_is_not_right_is_refused_and_the_caller_not_told_why(accepted: dict[str, Any], which: str) -> None:
    assert refused(spoiled()[which]) == refused("garbage")


def test_an_empty_token_is_refused(accepted: dict[str, Any]) -> None:
    refused("")


def test_a_tokens_own_addresses_are_not_visited(accepted: dict[str, Any], server: JwksServer) -> None:
    bait = JwksServer(signing_key("two"))
    try:
        refused(signing_key("two").sign(good(), jku=bait.url, x5u=bait.url))
        refused(signing_key("two").sign(good(), kid=bait.url, jku=bait.url))
        assert bait.requests == 0
    finally:
        bait.stop()


def test_a_clock_may_be_off_by_half_a_minute_but_not_by_more(accepted: dict[str, Any], key: SigningKey) -> None:
    now = int(time.time())
    assert issuers.verify(key.sign(good(exp=now - 20))).id == "alice"
    assert issuers.verify(key.sign(good(nbf=now + 20))).id == "alice"
    with pytest.raises(tokens.ExpiredToken):
        issuers.verify(key.sign(good(exp=now - 40)))
    refused(key.sign(good(nbf=now + 60)))


def test_an_expired_token_of_somebody_else_is_not_told_to_come_back(accepted: dict[str, Any]) -> None:
    refused(signing_key("two").sign(good(exp=1), kid="one"))


def test_the_longest_life_is_a_setting(accepted: dict[str, Any], settings: LazySettings, key: SigningKey) -> None:
    month = key.sign(good(exp=int(time.time()) + 31 * DAY - 5))
    assert issuers.verify(month).id == "alice"
    settings.CREDENTIAL_MAX_DAYS = 30
    refused(month)


def test_a_megabyte_is_not_even_read() -> None:
    before = time.process_time_ns()
    for text in ("x" * 2**20, "." * 2**20, "eyJ." * 2**18):
        assert issuers.issuer_of(text) is None
    assert time.process_time_ns() - before < 20_000_000


def test_the_issuer_of_a_token_is_what_it_says_or_nothing() -> None:
    assert issuers.issuer_of(signing_key("two").sign(good())) == ISSUER
    named = set()
    for token in spoiled().values():
        named.add(issuers.issuer_of(token))
    assert {None, ISSUER, "https://evil.example.com"} <= named
    assert all(issuers.issuer_of(text) is None for text in ("", "ff_abc", "\ud800", "a.é.c", "...", "a.b.c"))


# --- Presets --------------------------------------------------------------------------------------


def test_cognito_names_its_client_in_aud_or_client_id(
    accepted: dict[str, Any], settings: LazySettings, server: JwksServer, key: SigningKey
) -> None:
    pool = f"http://127.0.0.1:{server.port}/eu-west-1_Ab12"
    settings.JWT_ISSUERS = [{"preset": "cognito", "issuer": pool, "audiences": ["client"]}]

    def token(**claims: Any) -> str:
        return key.sign({k: v for k, v in (good(iss=pool) | {"aud": None} | claims).items() if v is not None})

    assert issuers.verify(token(token_use="id", aud="client")).id == "alice"
    assert issuers.verify(token(token_use="access", client_id="client")).id == "alice"
    assert server.paths == ["/eu-west-1_Ab12/.well-known/jwks.json"]
    refused(token(token_use="access", aud="client"))
    refused(token(token_use="id", client_id="client"))
    refused(token(token_use="access", client_id="other", aud="client"))
    refused(token(token_use="refresh", aud="client", client_id="client"))
    refused(token(aud="client", client_id="client"))


def test_firebase_shows_a_map_of_certificates(settings: LazySettings, server: JwksServer, key: SigningKey) -> None:
    settings.JWT_ISSUERS = [{"preset": "firebase", "project": "my-project", "jwks_url": server.url}]
    server.document = json.dumps({"one": key.certificate(), "two": signing_key("two").certificate()}).encode()
    name = "https://securetoken.google.com/my-project"
    assert issuers.verify(key.sign(good(iss=name, aud="my-project"))).id == "alice"
    assert issuers.verify(signing_key("two").sign(good(iss=name, aud="my-project"))).id == "alice"
    refused(signing_key("two").sign(good(iss=name, aud="my-project"), kid="one"))
    refused(key.sign(good(iss=name, aud="other-project")))
    refused(key.sign(good(iss="https://securetoken.google.com/other-project", aud="my-project")))


# --- Keys that come and go -----------------------------------------------------------------------


def test_without_issuers_every_token_is_refused(settings: LazySettings, key: SigningKey) -> None:
    settings.JWT_ISSUERS = []
    refused(key.sign(good()))


def test_without_any_keys_the_caller_is_asked_to_come_back(
    accepted: dict[str, Any], server: JwksServer, key: SigningKey
) -> None:
    server.stop()
    with pytest.raises(ApiError) as error:
        issuers.verify(key.sign(good()))
    assert (error.value.status, error.value.code, error.value.retry_after) == (503, "keys_unavailable", 2)
    assert server.url not in error.value.message


def test_a_rotation_goes_unnoticed(accepted: dict[str, Any], server: JwksServer, key: SigningKey) -> None:
    assert issuers.verify(key.sign(good())).id == "alice"
    server.show(key, signing_key("two"))
    assert issuers.verify(signing_key("two").sign(good())).id == "alice"
    assert issuers.verify(key.sign(good())).id == "alice"
    server.stop()
    assert issuers.verify(signing_key("two").sign(good())).id == "alice"
    assert server.requests == 2


def test_a_key_is_used_for_the_algorithm_that_it_is_for(accepted: dict[str, Any], server: JwksServer) -> None:
    accepted["algorithms"] = ["RS256", "PS256"]
    key = signing_key("one")
    server.document = json.dumps({"keys": [key.jwk(alg="PS256")]}).encode()
    refused(key.sign(good()))
    assert issuers.verify(jwt.encode(good(), key.private, algorithm="PS256", headers={"kid": "one"})).id == "alice"


def test_a_short_rsa_key_is_refused(accepted: dict[str, Any], server: JwksServer) -> None:
    short = SigningKey("short", private=rsa.generate_private_key(65537, 1024))
    server.show(short)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = short.sign(good())
    refused(token)
