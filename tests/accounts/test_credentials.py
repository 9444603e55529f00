"""One function says who calls: which credential counts, and when a session does."""

from http import HTTPStatus
from typing import Any

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from django.test import Client

from accounts import api_keys
from accounts.credentials import READ_SCOPES, Unauthenticated, authenticate, origin_allowed
from accounts.principals import SCOPES, Kind, Principal
from tests.credentials import mint

pytestmark = pytest.mark.django_db

HOST = "fanfare.example"
OURS = f"https://{HOST}"


@pytest.fixture
def operator() -> User:
    return User.objects.create_superuser("root")


@pytest.fixture
def clerk() -> User:
    return User.objects.create_user("clerk", is_staff=True)


def signed_in(user: User) -> str:
    """The cookie of a browser in which this user has signed in."""
    client = Client()
    client.force_login(user)
    return f"sessionid={client.cookies['sessionid'].value}"


def by_session(user: User, origin: str | None = OURS, host: str = HOST) -> Principal:
    headers = {"cookie": signed_in(user), "host": host}
    return authenticate(headers if origin is None else headers | {"origin": origin})


def token(user: str, **rest: Any) -> str:
    return mint(user, ttl=60, **rest)


# --- Which credential counts ----------------------------------------------------------------------


def test_a_credential_may_come_in_the_header_a_subprotocol_or_the_query() -> None:
    assert authenticate({"authorization": f"Bearer {token('alice')}"}).user == "alice"
    assert authenticate({"authorization": f"bearer  {token('alice')} "}).user == "alice"
    assert authenticate({}, subprotocols=["fanfare.v1", f"bearer.{token('alice')}"]).user == "alice"
    assert authenticate({}, {"authorization": token("alice")}).user == "alice"
    _, key = api_keys.create("acme-backend")
    assert authenticate({}, {"authorization": key}).kind is Kind.SERVICE


def test_the_header_comes_before_the_subprotocol_and_that_before_the_query(operator: User) -> None:
    cookie = {"cookie": signed_in(operator), "origin": OURS, "host": HOST}
    query, subprotocols = {"authorization": token("carol")}, [f"bearer.{token('bob')}"]
    header = {"authorization": f"Bearer {token('alice')}"}
    assert authenticate(cookie | header, query, subprotocols).id == "alice"
    assert authenticate(cookie, query, subprotocols).id == "bob"
    assert authenticate(cookie, query).id == "carol"
    assert authenticate(cookie).id == "root"


def test_a_bad_credential_is_not_made_good_by_another_one(operator: User) -> None:
    good = {"cookie": signed_in(operator), "origin": OURS, "host": HOST}
    for bad in ({"authorization": "Bearer x.y.z"}, {"authorization": "Basic YTpi"}, {"authorization": ""}):
        with pytest.raises(Unauthenticated):
            authenticate(good | bad, {"authorization": token("alice")})
    with pytest.raises(Unauthenticated):
        authenticate(good, {}, ["bearer.x.y.z"])


def test_credentials_in_the_query_can_be_switched_off(settings: LazySettings) -> None:
    settings.QUERY_CREDENTIALS = False
    with pytest.raises(Unauthenticated):
        authenticate({}, {"authorization": token("alice")})
    assert authenticate({}, subprotocols=[f"bearer.{token('alice')}"]).user == "alice"


def test_only_an_expired_token_is_told_to_come_back_with_a_fresh_one() -> None:
    expired = mint("alice", ttl=-1)
    key, text = api_keys.create("acme-backend")
    api_keys.revoke(key.prefix)
    for credential, comes_back in ((expired, True), ("x.y.z", False), (text, False), ("ff_", False)):
        with pytest.raises(Unauthenticated) as refused:
            authenticate({"authorization": f"Bearer {credential}"})
        assert refused.value.expired is comes_back
        assert credential not in str(refused.value)


@pytest.mark.parametrize("headers", [{}, {"cookie": ""}, {"cookie": "theme=dark"}, {"cookie": "sessionid="}])
def test_nothing_at_all_is_nobody(headers: dict[str, str]) -> None:
    with pytest.raises(Unauthenticated):
        authenticate(headers | {"origin": OURS, "host": HOST})


# --- Sessions -------------------------------------------------------------------------------------


def test_a_superuser_may_all_and_other_staff_may_read(operator: User, clerk: User) -> None:
    principal = by_session(operator)
    assert (principal.kind, principal.id, principal.user, principal.scopes) == (Kind.OPERATOR, "root", None, SCOPES)
    assert by_session(clerk).scopes == READ_SCOPES
    assert READ_SCOPES
    assert all(scope.endswith(":read") for scope in READ_SCOPES)


def test_who_is_no_staff_no_longer_active_or_gone_is_nobody(operator: User) -> None:
    visitor = User.objects.create_user("visitor")
    with pytest.raises(Unauthenticated):
        by_session(visitor)
    cookie = {"cookie": signed_in(operator), "origin": OURS, "host": HOST}
    assert authenticate(cookie)
    User.objects.filter(pk=operator.pk).update(is_active=False)
    with pytest.raises(Unauthenticated):
        authenticate(cookie)
    operator.delete()
    with pytest.raises(Unauthenticated):
        authenticate(cookie)


def test_a_session_ends_with_sign_out_and_with_a_new_password(operator: User, clerk: User) -> None:
    client = Client()
    client.force_login(operator)
    headers = {"cookie": f"sessionid={client.cookies['sessionid'].value}", "origin": OURS, "host": HOST}
    assert authenticate(headers)
    client.logout()
    with pytest.raises(Unauthenticated):
        authenticate(headers)
    headers["cookie"] = signed_in(clerk)
    clerk.set_password("new")
    clerk.save()
    with pytest.raises(Unauthenticated):
        authenticate(headers)


@pytest.mark.parametrize(
    "session",
    ["x" * 32, "../../etc/passwd", '"aaaaaaaaaaaaaaaa\\000"', "é" * 16, "'; DROP TABLE", "", "x" * 100_000, "%00"],
)
def test_a_session_that_is_none_is_nobody(session: str) -> None:
    with pytest.raises(Unauthenticated):
        authenticate({"cookie": f"sessionid={session}", "origin": OURS, "host": HOST})


def test_odd_cookies_beside_the_session_do_no_harm(operator: User) -> None:
    for odd in ('prefs={"theme":"dark"}', "a=b=c", "=", ";;", "ünicode=ü", "[x]=1"):
        for cookie in (f"{odd}; {signed_in(operator)}", f"{signed_in(operator)}; {odd}"):
            assert authenticate({"cookie": cookie, "origin": OURS, "host": HOST}).id == "root"


ORIGINS = [
    (OURS, HOST, True),
    (f"http://{HOST}", HOST, True),
    ("http://127.0.0.1:8000", "127.0.0.1:8000", True),
    ("http://[::1]:8000", "[::1]:8000", True),
    ("https://app.example", HOST, True),  # One of ALLOWED_ORIGINS.
    (None, HOST, False),
    ("", HOST, False),
    ("null", HOST, False),
    ("https://evil.example", HOST, False),
    (f"https://{HOST}.evil.example", HOST, False),
    (f"https://evil.example/{HOST}", HOST, False),
    (f"https://{HOST}@evil.example", HOST, False),
    (f"https://evil.example#{HOST}", HOST, False),
    (f"https://{HOST}:8443", HOST, False),
    ("http://127.0.0.1:8001", "127.0.0.1:8000", False),
    ("https://app.example.evil.example", HOST, False),
    ("http://app.example", HOST, False),
    (f"file://{HOST}", HOST, False),
    (f"//{HOST}", HOST, False),
    (HOST, HOST, False),
    ("https://[", HOST, False),
    ("http://", "", False),
    ("https://\0", HOST, False),
]


@pytest.mark.parametrize(("origin", "host", "allowed"), ORIGINS)
def test_a_session_counts_on_pages_of_our_own_and_allowed_ones(
    operator: User, settings: LazySettings, origin: str | None, host: str, allowed: bool
) -> None:
    settings.ALLOWED_ORIGINS = ["https://app.example"]
    assert origin_allowed({"host": host} | ({} if origin is None else {"origin": origin})) is allowed
    if allowed:
        assert by_session(operator, origin, host).id == "root"
    else:
        with pytest.raises(Unauthenticated):
            by_session(operator, origin, host)


def test_keys_and_tokens_need_no_origin() -> None:
    headers = {"authorization": f"Bearer {token('alice')}", "origin": "https://evil.example", "host": HOST}
    assert authenticate(headers).user == "alice"


# --- The same through HTTP ------------------------------------------------------------------------


def test_an_operator_reads_with_the_session_and_writes_with_csrf(operator: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    assert client.get("/api/notifications?user=alice").status_code == HTTPStatus.OK
    body = {"to": {"user": "alice"}, "data": 1}
    refused = client.post("/api/notifications", body, content_type="application/json")
    assert (refused.status_code, refused.json()["error"]["code"]) == (HTTPStatus.FORBIDDEN, "denied")
    csrf = "x" * 32
    client.cookies["csrftoken"] = csrf
    accepted = client.post("/api/notifications", body, content_type="application/json", headers={"X-CSRFToken": csrf})
    assert accepted.status_code == HTTPStatus.ACCEPTED


def test_staff_that_may_only_read_cannot_write(clerk: User) -> None:
    client = Client()
    client.force_login(clerk)
    assert client.get("/api/notifications?user=alice").status_code == HTTPStatus.OK
    body = {"to": {"user": "alice"}, "data": 1}
    assert client.post("/api/notifications", body, content_type="application/json").status_code == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("session", ['"aaaaaaaaaaaaaaaa\\000"', "x" * 32, "é" * 16])
def test_a_session_that_is_none_is_a_401(session: str) -> None:
    reply = Client(headers={"cookie": f"sessionid={session}"}).get("/api/notifications?user=alice")
    assert (reply.status_code, reply.json()["error"]["code"]) == (HTTPStatus.UNAUTHORIZED, "unauthenticated")
