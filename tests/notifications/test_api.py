"""The notification API: every route, every status, and nobody sees what is not theirs."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import quote, urlencode
from uuid import uuid4

import msgspec
import pytest
import time_machine
from django.conf import LazySettings
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from drf_spectacular.generators import SchemaGenerator
from rest_framework.views import APIView

from accounts import api_keys
from accounts.principals import SCOPES
from accounts.requests import seal_cursor
from config.asgi import waiting
from notifications.log import publish_due
from notifications.models import Message, Receipt, Topic
from tests.credentials import mint

pytestmark = pytest.mark.django_db

KIB = 1024
MIB = 1024 * KIB
MONTH = 30 * 24 * 3600
UNKNOWN = "01890000-0000-7000-8000-000000000000"


class Api:
    """One caller of the API. A refusal must have the API's one shape."""

    def __init__(self, credential: str | None) -> None:
        self._client = Client(headers={"authorization": f"Bearer {credential}"} if credential else None)

    def get(self, path: str, **query: Any) -> HttpResponse:
        return self._checked(self._client.get(path + (f"?{urlencode(query)}" if query else "")))

    def delete(self, path: str, **query: Any) -> HttpResponse:
        return self._checked(self._client.delete(path + (f"?{urlencode(query)}" if query else "")))

    def post(self, path: str, body: Any, content_type: str = "application/json", **headers: str) -> HttpResponse:
        """`body`: bytes as they are, all else as JSON."""
        text = body if isinstance(body, bytes) else msgspec.json.encode(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._checked(self._client.post(path, text, content_type=content_type, headers=named))

    def send(self, to: Any = None, data: Any = "hello", **rest: Any) -> HttpResponse:
        return self.post("/api/notifications", {"to": to or {"user": "alice"}, "data": data, **rest})

    def sent(self, *args: Any, **rest: Any) -> Any:
        """Sends a notification that must be accepted -> the reply."""
        return accepted(self.send(*args, **rest))

    @staticmethod
    def _checked(reply: Any) -> HttpResponse:
        if reply.status_code >= 400:
            assert reply.headers["Content-Type"] == "application/json"
            assert set(json(reply)) == {"error"}
            error = json(reply)["error"]
            assert set(error) <= {"code", "message", "fields"}
            assert error["code"]
            assert error["message"]
            assert error["code"] == error["code"].lower()
        return cast(HttpResponse, reply)


def json(reply: HttpResponse) -> Any:
    return msgspec.json.decode(reply.content)


def accepted(reply: HttpResponse) -> Any:
    assert reply.status_code == 202, reply.content
    return json(reply)


def refusal(reply: HttpResponse) -> tuple[int, str]:
    return reply.status_code, json(reply)["error"]["code"]


def data_of(reply: HttpResponse) -> list[Any]:
    assert reply.status_code == 200, reply.content
    return [message["data"] for message in json(reply)["messages"]]


def log_of(topic: str) -> str:
    return f"/api/topics/{quote(topic, safe='')}/messages"


@pytest.fixture
def service() -> Api:
    return Api(api_keys.create("acme-backend")[1])


@pytest.fixture
def reader() -> Api:
    """A service that may only read."""
    return Api(api_keys.create("acme-report", ["notifications:read"])[1])


@pytest.fixture
def alice() -> Api:
    return Api(mint("alice", "acme", ttl=MONTH))


@pytest.fixture
def bob() -> Api:
    return Api(mint("bob", "acme", ttl=MONTH, subscribe=["topic.room/*"], publish=["topic.room/*"]))


@pytest.fixture
def carol() -> Api:
    return Api(mint("carol", "globex", ttl=MONTH))


@pytest.fixture
def mallory() -> Api:
    """A user of no account, who may not."""
    return Api(mint("mallory", ttl=MONTH))


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(datetime.now(UTC), tick=False) as traveller:
        yield traveller


# --- POST /api/notifications ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "topic"),
    [
        ({"user": "alice"}, "user.alice"),
        ({"account": "acme"}, "account.acme"),
        ({"topic": "room/7"}, "topic.room/7"),
        ({"all": True}, "all"),
        ({"user": "åse@example.org"}, "user.åse@example.org"),
    ],
)
def test_a_notification_goes_to_the_topic_of_its_target(service: Api, to: Any, topic: str) -> None:
    reply = service.sent(to)
    assert set(reply) == {"id", "topic", "epoch", "offset"}
    assert (reply["topic"], reply["offset"]) == (topic, 1)
    assert reply["epoch"] == Topic.objects.get(name=topic).epoch
    assert service.sent(to)["offset"] == 2


def test_several_users_get_a_message_each_and_who_is_named_twice_gets_one(service: Api) -> None:
    reply = service.sent({"users": ["alice", "bob", "alice"]})
    assert [(one["user"], one["topic"], one["offset"]) for one in reply["messages"]] == [
        ("alice", "user.alice", 1),
        ("bob", "user.bob", 1),
    ]
    assert Message.objects.count() == 2
    assert set(reply) == {"messages"}


def test_one_user_in_a_list_still_gets_the_reply_of_a_list(service: Api) -> None:
    assert len(service.sent({"users": ["alice"]})["messages"]) == 1


def test_a_thousand_users_are_taken_and_one_more_is_not(service: Api) -> None:
    assert len(service.sent({"users": [f"user {n}" for n in range(1000)]})["messages"]) == 1000
    assert service.send({"users": [f"user {n}" for n in range(1001)]}).status_code == 400


MALFORMED: dict[str, Any] = {
    "no target": {"data": 1},
    "an empty target": {"to": {}, "data": 1},
    "two targets": {"to": {"user": "alice", "all": True}, "data": 1},
    "an empty list of users": {"to": {"users": []}, "data": 1},
    "a target of null": {"to": {"user": None}, "data": 1},
    "not all": {"to": {"all": False}, "data": 1},
    "all as a number": {"to": {"all": 1}, "data": 1},
    "an unknown target": {"to": {"group": "x"}, "data": 1},
    "a target that is a text": {"to": "alice", "data": 1},
    "a user that is a number": {"to": {"user": 7}, "data": 1},
    "an empty user": {"to": {"user": ""}, "data": 1},
    "a user with a comma": {"to": {"user": "a,b"}, "data": 1},
    "a user with a line feed": {"to": {"user": "a\nb"}, "data": 1},
    "a user of 201 characters": {"to": {"user": "x" * 201}, "data": 1},
    "a user of 202 bytes": {"to": {"user": "å" * 101}, "data": 1},
    "one bad user among good ones": {"to": {"users": ["alice", "a,b"]}, "data": 1},
    "no data": {"to": {"user": "alice"}},
    "an unknown field": {"to": {"user": "alice"}, "data": 1, "datta": 2},
    "a type that is empty": {"to": {"user": "alice"}, "data": 1, "type": ""},
    "a type of 101 characters": {"to": {"user": "alice"}, "data": 1, "type": "x" * 101},
    "a type with a tab": {"to": {"user": "alice"}, "data": 1, "type": "a\tb"},
    "a key of 201 characters": {"to": {"user": "alice"}, "data": 1, "key": "x" * 201},
    "a key with an escape": {"to": {"user": "alice"}, "data": 1, "key": "\x1b[0m"},
    "a ttl of 0": {"to": {"user": "alice"}, "data": 1, "ttl": 0},
    "a ttl of more than a year": {"to": {"user": "alice"}, "data": 1, "ttl": 31_536_001},
    "a ttl that is a text": {"to": {"user": "alice"}, "data": 1, "ttl": "60"},
    "a ttl that is a fraction": {"to": {"user": "alice"}, "data": 1, "ttl": 1.5},
    "a time without a zone": {"to": {"user": "alice"}, "data": 1, "send_at": "2030-01-01T00:00:00"},
    "a time that is none": {"to": {"user": "alice"}, "data": 1, "send_at": "tomorrow"},
    "store as a text": {"to": {"user": "alice"}, "data": 1, "store": "no"},
    "excluded users that are no list": {"to": {"all": True}, "data": 1, "exclude_users": "bob"},
    "an excluded user with a comma": {"to": {"all": True}, "data": 1, "exclude_users": ["a,b"]},
    "1001 excluded users": {"to": {"all": True}, "data": 1, "exclude_users": [f"u{n}" for n in range(1001)]},
    "a list": [],
    "a text": "hello",
    "null": None,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_notification_is_a_400_and_stores_nothing(service: Api, body: Any) -> None:
    assert service.post("/api/notifications", body).status_code == 400
    assert not Message.objects.exists()
    (result,) = accepted(service.post("/api/notifications/batch", {"notifications": [body]}))["results"]
    assert result["status"] == 400
    assert not Message.objects.exists()


def test_a_refusal_names_the_field(service: Api) -> None:
    reply = service.post("/api/notifications", {"to": {"user": 7}, "data": 1})
    assert json(reply)["error"]["fields"].keys() == {"to.user"}


REFUSED: dict[str, Any] = {
    "excluded users of a user": {"to": {"user": "alice"}, "data": 1, "exclude_users": ["bob"]},
    "excluded users of users": {"to": {"users": ["alice"]}, "data": 1, "exclude_users": ["bob"]},
    "excluded users of a topic": {"to": {"topic": "room"}, "data": 1, "exclude_users": ["bob"]},
    "a ttl of what is not stored": {"to": {"user": "alice"}, "data": 1, "store": False, "ttl": 60},
    "a time of what is not stored": {
        "to": {"user": "alice"},
        "data": 1,
        "store": False,
        "send_at": "2020-01-01T00:00:00Z",
    },
    "a time in ten years": {"to": {"user": "alice"}, "data": 1, "send_at": "2099-01-01T00:00:00Z"},
    "the last time that there is": {"to": {"user": "alice"}, "data": 1, "send_at": "9999-12-31T23:59:59-23:59"},
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_is_well_formed_but_breaks_a_rule_is_a_422(service: Api, body: Any) -> None:
    assert refusal(service.post("/api/notifications", body)) == (422, "refused")
    assert not Message.objects.exists()


def test_every_json_value_can_be_data(service: Api, alice: Api) -> None:
    values: list[Any] = [None, True, 0, -1.5e300, 2**64 - 1, -(2**63), "", "ü😀", [], {}, {"": [{"a": [1]}]}]
    for value in values:
        service.sent(data=value)
    assert data_of(alice.get(log_of("user.alice"))) == values


def test_all_options_together_are_kept(service: Api, clock: time_machine.Traveller) -> None:
    service.sent(
        {"account": "acme"}, type="offer.new", key="offer 7", ttl=60, store=True, exclude_users=["bob", "bob", "carol"]
    )
    message = Message.objects.get()
    assert (message.type, message.key, message.sender, message.has_exclusions) == ("offer.new", "offer 7", "", True)
    assert message.expires_at == datetime.now(UTC) + timedelta(seconds=60)
    assert sorted(Receipt.objects.values_list("user", flat=True)) == ["bob", "carol"]


def test_a_scheduled_notification_has_no_offset_until_it_is_due(
    service: Api, alice: Api, clock: time_machine.Traveller
) -> None:
    reply = service.sent(send_at=datetime.now(UTC) + timedelta(hours=1))
    assert (reply["epoch"], reply["offset"]) == (None, None)
    assert data_of(alice.get("/api/notifications")) == []
    clock.shift(timedelta(hours=1))
    publish_due()
    assert data_of(alice.get("/api/notifications")) == ["hello"]
    assert json(service.get(f"/api/notifications/{reply['id']}"))["offset"] == 1


@pytest.mark.parametrize("send_at", ["2020-01-01T00:00:00Z", "2020-01-01T05:00:00+05:00", "0001-01-01T00:00:00+23:59"])
def test_a_time_in_the_past_is_now(service: Api, send_at: str) -> None:
    assert service.sent(send_at=send_at)["offset"] == 1


def test_what_is_not_stored_has_no_offset_and_is_nowhere(service: Api, alice: Api) -> None:
    reply = service.sent(store=False)
    assert (reply["topic"], reply["epoch"], reply["offset"]) == ("user.alice", None, None)
    assert data_of(alice.get("/api/notifications")) == []
    assert refusal(service.get(f"/api/notifications/{reply['id']}")) == (404, "unknown_message")


# --- Sizes and JSON -------------------------------------------------------------------------------


def test_a_body_of_64_kib_is_taken_and_one_byte_more_is_a_413(service: Api) -> None:
    def body(size: int) -> bytes:
        rest = b'{"to":{"user":"alice"},"data":"%s"}'
        return rest % (b"x" * (size - len(rest) + 2))

    assert service.post("/api/notifications", body(64 * KIB)).status_code == 202
    assert refusal(service.post("/api/notifications", body(64 * KIB + 1))) == (413, "too_large")
    assert refusal(service.post("/api/notifications", body(9 * MIB))) == (413, "too_large")


def test_a_batch_may_have_8_mib_and_no_more(service: Api) -> None:
    item = {"to": {"user": "alice"}, "data": "x" * 60 * KIB}
    batch = msgspec.json.encode({"notifications": [item] * 130})
    assert 7 * MIB < len(batch) < 8 * MIB
    results = accepted(service.post("/api/notifications/batch", batch))["results"]
    assert {result["status"] for result in results} == {202}
    padded = batch + b" " * (8 * MIB - len(batch))
    assert service.post("/api/notifications/batch", padded).status_code == 202
    assert refusal(service.post("/api/notifications/batch", padded + b" ")) == (413, "too_large")


def test_one_message_of_more_than_64_kib_in_a_batch_is_a_413_of_its_own(service: Api) -> None:
    items = [{"to": {"user": "alice"}, "data": data} for data in ("x" * 64 * KIB, "x" * (64 * KIB - 2))]
    results = accepted(service.post("/api/notifications/batch", {"notifications": items}))["results"]
    assert [result["status"] for result in results] == [413, 202]


NOT_TAKEN = {
    "a key twice": b'{"to":{"user":"alice"},"data":{"a":1,"a":2}}',
    "a field twice": b'{"to":{"user":"alice"},"to":{"all":true},"data":1}',
    "NaN": b'{"to":{"user":"alice"},"data":NaN}',
    "an infinity": b'{"to":{"user":"alice"},"data":-Infinity}',
    "a number that is infinite": b'{"to":{"user":"alice"},"data":1e999}',
    "33 levels": b'{"to":{"user":"alice"},"data":' + b"[" * 32 + b"]" * 32 + b"}",
    "5000 levels": b'{"to":{"user":"alice"},"data":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "NUL": b'{"to":{"user":"alice"},"data":"a\\u0000b"}',
    "NUL in a key": b'{"to":{"user":"alice"},"data":{"\\u0000":1}}',
    "a lone surrogate": b'{"to":{"user":"alice"},"data":"\\ud800"}',
    "a lone surrogate in the target": b'{"to":{"user":"\\udc00"},"data":1}',
    "an integer beyond 64 bits": b'{"to":{"user":"alice"},"data":18446744073709551616}',
    "invalid UTF-8": b'{"to":{"user":"alice"},"data":"\xff"}',
    "half": b'{"to":{"user":"alice"},"data":',
    "Latin-1": '{"to":{"user":"alice"},"data":"é"}'.encode("latin-1"),
}


@pytest.mark.parametrize("body", NOT_TAKEN.values(), ids=NOT_TAKEN)
@pytest.mark.parametrize("route", ["/api/notifications", "/api/notifications/batch"])
def test_json_that_is_not_taken_is_a_400_and_stores_nothing(service: Api, route: str, body: bytes) -> None:
    if route.endswith("batch"):
        body = b'{"notifications":[' + body + b"]}"
    assert refusal(service.post(route, body)) == (400, "malformed_json")
    assert not Message.objects.exists()
    assert not Topic.objects.exists()


def test_32_levels_are_taken(service: Api) -> None:
    body = b'{"to":{"user":"alice"},"data":' + b"[" * 31 + b"]" * 31 + b"}"
    assert service.post("/api/notifications", body).status_code == 202


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_another_content_type_is_a_415(service: Api, content_type: str) -> None:
    reply = service.post("/api/notifications", b'{"to":{"user":"alice"},"data":1}', content_type)
    assert refusal(reply) == (415, "unsupported_media_type")


def test_a_charset_beside_the_content_type_is_fine(service: Api) -> None:
    body = b'{"to":{"user":"alice"},"data":1}'
    assert service.post("/api/notifications", body, "application/json; charset=utf-8").status_code == 202


def test_an_empty_body_is_a_400(service: Api) -> None:
    assert service.post("/api/notifications", b"").status_code == 400


# --- Who may --------------------------------------------------------------------------------------

ROUTES: list[tuple[str, str]] = [
    ("POST", "/api/notifications"),
    ("GET", "/api/notifications?user=alice"),
    ("DELETE", "/api/notifications?key=order-7"),
    ("POST", "/api/notifications/batch"),
    ("GET", f"/api/notifications/{UNKNOWN}"),
    ("DELETE", f"/api/notifications/{UNKNOWN}"),
    ("GET", "/api/topics/user.alice/messages"),
]


def call(method: str, path: str, credential: str | None) -> HttpResponse:
    headers = {"authorization": credential} if credential is not None else None
    reply: Any = Client(headers=headers).generic(method, path, b"{}", content_type="application/json")
    return cast(HttpResponse, reply)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "credential",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer nonsense",
        "Bearer ff_000000000000_" + "0" * 64,
        "Bearer ff_",
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
        "Bearer é",
    ],
)
def test_without_a_good_credential_every_route_is_a_401(method: str, path: str, credential: str | None) -> None:
    reply = call(method, path, credential)
    assert refusal(reply) == (401, "unauthenticated")
    assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_an_expired_token_says_so() -> None:
    reply = call("GET", "/api/notifications", f"Bearer {mint('alice', ttl=-1)}")
    assert refusal(reply) == (401, "token_expired")
    assert "expired" in json(reply)["error"]["message"]


def test_a_credential_in_the_query_is_for_sockets_only(service: Api) -> None:
    token = mint("alice", ttl=60)
    assert Client().get(f"/api/notifications?authorization={token}").status_code == 401


def test_a_service_that_may_read_cannot_write(reader: Api, service: Api) -> None:
    message_id = service.sent(key="order-7")["id"]
    assert refusal(reader.send()) == (403, "denied")
    assert refusal(reader.delete(f"/api/notifications/{message_id}")) == (403, "scope_missing")
    assert refusal(reader.delete("/api/notifications", key="order-7")) == (403, "scope_missing")
    batch = {"notifications": [{"to": {"all": True}, "data": 1}]}
    (result,) = accepted(reader.post("/api/notifications/batch", batch))["results"]
    assert (result["status"], result["error"]["code"]) == (403, "denied")
    assert data_of(reader.get("/api/notifications", user="alice")) == ["hello"]
    assert data_of(reader.get(log_of("user.alice"))) == ["hello"]
    assert reader.get(f"/api/notifications/{message_id}").status_code == 200


def test_a_service_with_other_scopes_can_neither(service: Api) -> None:
    other = Api(api_keys.create("acme-scores", SCOPES - {"notifications:read", "notifications:write"})[1])
    message_id = service.sent()["id"]
    assert other.send().status_code == 403
    assert other.get("/api/notifications", user="alice").status_code == 403
    assert other.get(log_of("user.alice")).status_code == 403
    assert other.get(f"/api/notifications/{message_id}").status_code == 403
    assert other.delete(f"/api/notifications/{message_id}").status_code == 403


def test_a_service_that_may_write_cannot_read(service: Api) -> None:
    writer = Api(api_keys.create("acme-cron", ["notifications:write"])[1])
    message_id = writer.sent()["id"]
    assert refusal(writer.get(f"/api/notifications/{message_id}")) == (403, "scope_missing")
    assert refusal(writer.get("/api/notifications", user="alice")) == (403, "denied")


def test_a_user_reads_its_own_its_accounts_and_everyones(service: Api, alice: Api) -> None:
    for to in ({"user": "alice"}, {"account": "acme"}, {"all": True}):
        service.sent(to, data=to)
    assert data_of(alice.get("/api/notifications")) == data_of(alice.get("/api/notifications", user="alice"))
    for topic, to in (("user.alice", {"user": "alice"}), ("account.acme", {"account": "acme"}), ("all", {"all": True})):
        assert data_of(alice.get("/api/notifications", topic=topic)) == data_of(alice.get(log_of(topic))) == [to]


def test_no_user_sees_or_touches_what_is_not_theirs(service: Api, carol: Api, mallory: Api) -> None:
    sent = [service.sent(to, data="secret") for to in ({"user": "alice"}, {"account": "acme"}, {"topic": "room/7"})]
    for outsider in (carol, mallory):
        for topic in ("user.alice", "account.acme", "topic.room/7"):
            for reply in (outsider.get("/api/notifications", topic=topic), outsider.get(log_of(topic))):
                assert refusal(reply) == (403, "denied")
                assert b"secret" not in reply.content
        assert refusal(outsider.get("/api/notifications", user="alice")) == (403, "denied")
        for one in sent:
            reply = outsider.get(f"/api/notifications/{one['id']}")
            assert refusal(reply) == refusal(outsider.get(f"/api/notifications/{UNKNOWN}")) == (404, "unknown_message")
            assert refusal(outsider.delete(f"/api/notifications/{one['id']}")) == (403, "scope_missing")
        assert refusal(outsider.delete("/api/notifications", key="order-7")) == (403, "scope_missing")
    assert Message.objects.filter(recalled_at=None).count() == 3


@pytest.mark.parametrize("to", [{"user": "alice"}, {"user": "bob"}, {"account": "acme"}, {"all": True}])
def test_a_user_sends_to_nobody_without_a_capability_not_even_itself(alice: Api, to: Any) -> None:
    assert refusal(alice.send(to)) == (403, "denied")
    assert not Message.objects.exists()


def test_a_user_with_a_capability_reads_and_sends_there_and_the_server_names_it(bob: Api, service: Api) -> None:
    bob.sent({"topic": "room/7"}, data="Hello, room")
    assert refusal(bob.send({"topic": "roof"})) == (403, "denied")
    (message,) = json(bob.get(log_of("topic.room/7")))["messages"]
    assert (message["sender"], message["data"]) == ("bob", "Hello, room")
    service.sent({"topic": "room/7"})
    assert "sender" not in json(bob.get(log_of("topic.room/7")))["messages"][1]


def test_a_sender_in_the_body_is_refused(bob: Api) -> None:
    assert bob.send({"topic": "room/7"}, sender="alice").status_code == 400


def test_who_is_excluded_does_not_see_the_message_by_any_route(service: Api, alice: Api, bob: Api) -> None:
    message_id = service.sent({"account": "acme"}, exclude_users=["alice"])["id"]
    assert data_of(alice.get(log_of("account.acme"))) == []
    assert data_of(alice.get("/api/notifications", topic="account.acme")) == []
    assert refusal(alice.get(f"/api/notifications/{message_id}")) == (404, "unknown_message")
    assert data_of(bob.get(log_of("account.acme"))) == ["hello"]
    assert bob.get(f"/api/notifications/{message_id}").status_code == 200


@pytest.mark.parametrize(
    "topic", ["control", "presence.room", "board.x", "sessions.1", "nonsense", "user", "all.x", "."]
)
def test_a_topic_of_another_kind_is_closed_to_services_too(service: Api, topic: str) -> None:
    for reply in (service.get(log_of(topic)), service.get("/api/notifications", topic=topic)):
        assert refusal(reply) in {(403, "denied"), (400, "malformed_topic")}


# --- POST /api/notifications/batch ----------------------------------------------------------------


def test_the_items_of_a_batch_succeed_and_fail_each_for_itself(service: Api) -> None:
    good = {"to": {"user": "alice"}, "data": 1}
    items = [
        good,
        "not an object",
        {"to": {"users": []}, "data": 1},
        {"to": {"user": "alice"}, "data": 1, "exclude_users": ["bob"]},
        {"to": {"topic": "a,b"}, "data": 1},
        {"to": {"users": ["alice", "bob"]}, "data": 1},
        {"to": {"all": True}, "data": 1, "store": False},
        good,
    ]
    results = accepted(service.post("/api/notifications/batch", {"notifications": items}))["results"]
    assert [result["status"] for result in results] == [202, 400, 400, 422, 400, 202, 202, 202]
    assert [results[n]["offset"] for n in (0, 6, 7)] == [1, None, 3]
    assert [one["offset"] for one in results[5]["messages"]] == [2, 1]
    assert all(set(result["error"]) >= {"code", "message"} for result in results if result["status"] >= 400)
    assert results[2]["error"]["fields"].keys() == {"notifications[2].to.users"}


@pytest.mark.parametrize("body", [{}, {"notifications": []}, {"notifications": 7}, {"notifications": {}}, [], {"x": 1}])
def test_a_batch_that_is_none_is_a_400(service: Api, body: Any) -> None:
    assert service.post("/api/notifications/batch", body).status_code == 400


def test_a_batch_has_a_thousand_items_at_most(service: Api) -> None:
    item = {"to": {"user": "alice"}, "data": 1}
    results = accepted(service.post("/api/notifications/batch", {"notifications": [item] * 1000}))["results"]
    assert [result["offset"] for result in results] == list(range(1, 1001))
    assert service.post("/api/notifications/batch", {"notifications": [item] * 1001}).status_code == 400


def test_a_batch_that_makes_too_many_messages_is_a_413(service: Api, settings: LazySettings) -> None:
    settings.BATCH_MAX_MESSAGES = 5
    item = {"to": {"users": ["alice", "bob"]}, "data": 1}
    assert refusal(service.post("/api/notifications/batch", {"notifications": [item] * 3})) == (
        413,
        "too_many_messages",
    )
    assert not Message.objects.exists()


# --- Idempotency-Key ------------------------------------------------------------------------------


def send_once(api: Api, body: Any, key: str = "order-1", route: str = "/api/notifications") -> HttpResponse:
    return api.post(route, body, idempotency_key=key)


def test_a_repeated_request_gets_the_first_reply_and_says_so(service: Api) -> None:
    body = {"to": {"users": ["alice", "bob"]}, "data": 1}
    first, again = send_once(service, body), send_once(service, body)
    assert accepted(first) == accepted(again)
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert Message.objects.count() == 2


def test_another_body_with_the_same_key_is_a_422(service: Api) -> None:
    send_once(service, {"to": {"user": "alice"}, "data": 1})
    assert refusal(send_once(service, {"to": {"user": "alice"}, "data": 2})) == (422, "idempotency_mismatch")
    assert Message.objects.count() == 1


def test_the_key_of_one_caller_is_not_the_key_of_another(service: Api, bob: Api) -> None:
    body = {"to": {"topic": "room/7"}, "data": 1}
    assert accepted(send_once(service, body)) != accepted(send_once(bob, body))


def test_a_refused_request_does_not_use_up_its_key(service: Api) -> None:
    assert send_once(service, {"to": {"users": []}, "data": 1}).status_code == 400
    assert send_once(service, {"to": {"user": "alice"}, "data": 1}).status_code == 202


def test_a_repeated_batch_gets_the_first_reply_with_its_refusals(service: Api) -> None:
    batch = {"notifications": [{"to": {"user": "alice"}, "data": 1}, "bad", {"to": {"users": ["bob"]}, "data": 1}]}
    first, again = [send_once(service, batch, route="/api/notifications/batch") for _ in range(2)]
    assert accepted(first) == accepted(again)
    assert again.headers["Idempotent-Replayed"] == "true"
    other = {"notifications": batch["notifications"][:1]}
    reply = send_once(service, other, route="/api/notifications/batch")
    assert refusal(reply) == (422, "idempotency_mismatch")
    assert Message.objects.count() == 2


def test_a_repeated_batch_gets_the_first_reply_though_its_sender_may_more_or_less_by_now() -> None:
    batch = {"notifications": [{"to": {"topic": name}, "data": name} for name in ("roof", "room")]}

    def send(*allowed: str) -> Any:
        bob = Api(mint("bob", ttl=60, publish=allowed))
        return accepted(send_once(bob, batch, route="/api/notifications/batch"))

    first = send("topic.room")
    assert [result["status"] for result in first["results"]] == [403, 202]
    assert send("topic.room", "topic.roof") == first
    assert send("topic.roof") == first
    assert Message.objects.count() == 1


@pytest.mark.parametrize("key", ["", "x" * 201, "ümlaut"])
def test_a_malformed_key_is_a_400(service: Api, key: str) -> None:
    reply = send_once(service, {"to": {"user": "alice"}, "data": 1}, key)
    assert refusal(reply) == (400, "malformed_idempotency_key")


# --- GET /api/notifications -----------------------------------------------------------------------


def test_history_is_newest_first_in_pages(service: Api, alice: Api) -> None:
    for n in range(7):
        service.sent(data=n)
    seen, query = [], {"limit": 3}
    while True:
        reply = alice.get("/api/notifications", **query)
        seen.append(data_of(reply))
        if not (after := json(reply)["next"]):
            break
        query["cursor"] = after
    assert seen == [[6, 5, 4], [3, 2, 1], [0]]


def test_a_message_of_history_has_its_fields(service: Api) -> None:
    sent = service.sent({"account": "acme"}, type="offer", ttl=60)
    (message,) = json(service.get("/api/notifications", topic="account.acme"))["messages"]
    assert set(message) == {"id", "topic", "offset", "type", "data", "created_at", "expires_at"}
    assert {name: message[name] for name in ("id", "topic", "offset")} == {
        name: sent[name] for name in ("id", "topic", "offset")
    }
    created, expires = (datetime.fromisoformat(message[name]) for name in ("created_at", "expires_at"))
    assert message["created_at"].endswith("Z")
    assert timedelta(seconds=59) < expires - created <= timedelta(seconds=60)


def test_history_goes_back_seven_days_unless_it_is_told(
    service: Api, alice: Api, clock: time_machine.Traveller
) -> None:
    service.sent(data="old")
    sent_at = datetime.now(UTC)
    clock.shift(timedelta(days=8))
    service.sent(data="new")
    assert data_of(alice.get("/api/notifications")) == ["new"]
    for start in (
        sent_at.isoformat(),
        f"{sent_at:%Y-%m-%dT%H:%M:%SZ}",
        str(int(sent_at.timestamp())),
        "0",
        "2020-01-01",
    ):
        assert data_of(alice.get("/api/notifications", start=start)) == ["new", "old"]
    for end in (sent_at.isoformat(), str(int(sent_at.timestamp()) + 1)):
        assert data_of(alice.get("/api/notifications", start=0, end=end)) == ["old"]
    assert data_of(alice.get("/api/notifications", start=0, end="9999-12-31T23:59:59Z")) == ["new", "old"]


def test_history_is_narrowed_by_type_and_text(service: Api, alice: Api) -> None:
    service.sent(data={"text": "Lunch"}, type="offer")
    service.sent(data={"text": "lunchtime"}, type="news")
    service.sent(data=["dinner"], type="alert")
    assert len(data_of(alice.get("/api/notifications", type="news,alert"))) == 2
    assert len(data_of(alice.get("/api/notifications", q="LUNCH"))) == 2
    assert data_of(alice.get("/api/notifications", q="lunch", type="news")) == [{"text": "lunchtime"}]
    assert data_of(alice.get("/api/notifications", type="none", q="%")) == []


BAD_QUERIES: list[dict[str, Any]] = [
    {"limit": "0"},
    {"limit": "-1"},
    {"limit": "ten"},
    {"limit": "1.5"},
    {"limit": "٣"},
    {"limit": "9" * 30},
    {"start": "yesterday"},
    {"start": "-1"},
    {"end": "999999999999"},
    {"end": "1e9"},
    {"start": "0001-01-01T00:00:00+23:59"},
    {"end": "2026-13-01"},
    {"cursor": "nonsense"},
    {"cursor": "é"},
    {"cursor": ""},
    {"cursor": seal_cursor("2026-01-01T00:00:00", 1)},
    {"cursor": seal_cursor("0001-01-01T00:00:00+23:59", 1)},
    {"cursor": seal_cursor("9999-12-31T23:59:59-23:59", 1)},
    {"cursor": seal_cursor("2026-01-01T00:00:00Z")},
    {"cursor": seal_cursor("2026-01-01T00:00:00Z", "1")},
    {"cursor": seal_cursor({"a": 1}, 1)},
    {"user": "a,b"},
    {"user": ""},
    {"user": "\0"},
    {"topic": "user.alice", "user": "alice"},
    {"topic": "user.a,b"},
    {"topic": "user.\0"},
]


@pytest.mark.parametrize("query", BAD_QUERIES, ids=str)
def test_a_malformed_query_is_a_400(service: Api, query: dict[str, Any]) -> None:
    if not {"user", "topic"} & set(query):
        query = {"user": "alice"} | query
    assert service.get("/api/notifications", **query).status_code == 400


@pytest.mark.parametrize(
    "query", [{"type": "a\0b"}, {"q": "a\0b"}, {"cursor": seal_cursor("2026-01-01T00:00:00Z", 10**30)}], ids=str
)
def test_a_strange_query_finds_nothing_and_breaks_nothing(service: Api, query: dict[str, Any]) -> None:
    service.sent()
    assert data_of(service.get("/api/notifications", user="alice", **query)) == []


def test_a_tampered_cursor_is_a_400(service: Api) -> None:
    service.sent(), service.sent()
    cursor = json(service.get("/api/notifications", user="alice", limit=1))["next"]
    tampered = [cursor[:-3], cursor[3:], cursor + "AAAA", cursor.replace(cursor[4:8], "____")]
    for text in tampered:
        assert service.get("/api/notifications", user="alice", cursor=text).status_code == 400


def test_a_cursor_opens_no_other_topic(service: Api, alice: Api, carol: Api) -> None:
    service.sent({"user": "carol"}, data="secret"), service.sent({"user": "carol"}, data="secret")
    cursor = json(carol.get("/api/notifications", limit=1))["next"]
    assert data_of(alice.get("/api/notifications", cursor=cursor)) == []


def test_a_page_has_a_hundred_messages_at_most(service: Api, alice: Api) -> None:
    item = {"to": {"user": "alice"}, "data": 1}
    service.post("/api/notifications/batch", {"notifications": [item] * 120})
    assert len(data_of(alice.get("/api/notifications"))) == 25
    assert len(data_of(alice.get("/api/notifications", limit=5000))) == 100
    assert len(data_of(alice.get(log_of("user.alice")))) == 25
    assert len(data_of(alice.get(log_of("user.alice"), limit=5000))) == 120


def test_a_service_says_whose_history_it_wants(service: Api) -> None:
    assert service.get("/api/notifications").status_code == 400


# --- GET and DELETE /api/notifications/{id} -------------------------------------------------------


def test_a_message_shows_what_happened_to_it_and_its_key_to_services_only(service: Api, alice: Api) -> None:
    message_id = service.sent(key="order-7")["id"]
    shown = json(service.get(f"/api/notifications/{message_id}"))
    assert (shown["key"], shown["data"], shown["offset"]) == ("order-7", "hello", 1)
    assert [step["what"] for step in shown["timeline"]] == ["accepted", "published"]
    assert json(alice.get(f"/api/notifications/{message_id}"))["key"] == ""


def test_an_unknown_message_is_a_404(service: Api) -> None:
    assert refusal(service.get(f"/api/notifications/{uuid4()}")) == (404, "unknown_message")
    assert refusal(service.delete(f"/api/notifications/{uuid4()}")) == (404, "unknown_message")
    assert refusal(service.get("/api/notifications/not-an-id")) == (404, "not_found")


def test_a_recalled_message_is_gone_for_its_user_and_marked_for_the_service(service: Api, alice: Api) -> None:
    message_id = service.sent()["id"]
    for _ in range(2):
        reply = service.delete(f"/api/notifications/{message_id}")
        assert (reply.status_code, reply.content) == (204, b"")
    assert refusal(alice.get(f"/api/notifications/{message_id}")) == (410, "gone")
    assert data_of(alice.get("/api/notifications")) == data_of(alice.get(log_of("user.alice"))) == []
    assert json(service.get(f"/api/notifications/{message_id}"))["timeline"][-1]["what"] == "recalled"


def test_an_expired_message_is_gone_for_its_user(service: Api, alice: Api, clock: time_machine.Traveller) -> None:
    message_id = service.sent(ttl=60)["id"]
    clock.shift(60)
    assert refusal(alice.get(f"/api/notifications/{message_id}")) == (410, "gone")
    assert data_of(alice.get("/api/notifications")) == []


def test_recalling_a_scheduled_message_cancels_it(service: Api, clock: time_machine.Traveller) -> None:
    message_id = service.sent(send_at=datetime.now(UTC) + timedelta(hours=1))["id"]
    assert service.delete(f"/api/notifications/{message_id}").status_code == 204
    clock.shift(timedelta(hours=2))
    assert publish_due() == 0


# --- DELETE /api/notifications?key= ---------------------------------------------------------------


def test_messages_are_recalled_by_their_key_all_or_of_one_user(service: Api, alice: Api, bob: Api) -> None:
    sent = service.sent({"users": ["alice", "bob"]}, key="order-7")["messages"]
    kept = service.sent(key="order-8")
    assert json(service.delete("/api/notifications", key="order-7", user="bob")) == {
        "recalled": [sent[1]["id"]],
        "more": False,
    }
    assert data_of(bob.get("/api/notifications")) == []
    assert len(data_of(alice.get("/api/notifications"))) == 2
    assert json(service.delete("/api/notifications", key="order-7"))["recalled"] == [sent[0]["id"]]
    assert json(service.delete("/api/notifications", key="order-7"))["recalled"] == []
    assert [m["id"] for m in json(alice.get("/api/notifications"))["messages"]] == [kept["id"]]


@pytest.mark.parametrize("query", [{}, {"key": ""}, {"key": "a\0b"}, {"key": "x", "user": "a,b"}, {"user": "alice"}])
def test_a_recall_without_a_key_is_a_400_and_recalls_nothing(service: Api, query: dict[str, str]) -> None:
    service.sent()
    assert service.delete("/api/notifications", **query).status_code == 400
    assert not Message.objects.exclude(recalled_at=None).exists()


# --- GET /api/topics/{topic}/messages -------------------------------------------------------------


@pytest.mark.parametrize("name", ["a/b", "ä/ö 😀", "%2F", "a b+c", "x/messages", "?a=1&b#c", "..", "a//b", "x" * 200])
def test_a_topics_name_may_be_anything_percent_encoded(service: Api, name: str) -> None:
    sent = service.sent({"topic": name})
    page = json(service.get(log_of(f"topic.{name}")))
    assert [message["topic"] for message in page["messages"]] == [f"topic.{name}"] == [sent["topic"]]
    assert data_of(service.get("/api/notifications", topic=f"topic.{name}")) == ["hello"]


def test_the_log_goes_on_after_an_offset(service: Api, alice: Api) -> None:
    for n in range(1, 6):
        service.sent(data=n)
    page = json(alice.get(log_of("user.alice"), since=1, limit=2))
    assert [(message["offset"], message["data"]) for message in page["messages"]] == [(2, 2), (3, 3)]
    assert (page["epoch"], page["head"], page["tail"]) == (Topic.objects.get().epoch, 5, 1)
    assert data_of(alice.get(log_of("user.alice"), since=5)) == []
    assert data_of(alice.get(log_of("user.alice"), since="999999999999999999")) == []


def test_a_topic_without_messages_is_empty(alice: Api) -> None:
    empty: dict[str, Any] = {"messages": [], "epoch": None, "head": 0, "tail": 1}
    assert json(alice.get(log_of("user.alice"))) == empty
    assert not Topic.objects.exists()


@pytest.mark.parametrize("query", [{"since": "-1"}, {"since": "x"}, {"limit": "0"}, {"since": "1e3"}])
def test_a_malformed_position_is_a_400(alice: Api, query: dict[str, str]) -> None:
    assert alice.get(log_of("user.alice"), **query).status_code == 400


# --- The map --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/api/notifications"),
        ("PATCH", f"/api/notifications/{UNKNOWN}"),
        ("GET", "/api/notifications/batch"),
        ("POST", "/api/topics/user.alice/messages"),
    ],
)
def test_another_method_is_a_405(method: str, path: str) -> None:
    _, key = api_keys.create("acme-backend")
    reply = call(method, path, f"Bearer {key}")
    assert refusal(reply) == (405, "method_not_allowed")


@pytest.mark.parametrize("path", ["/api/nothing", "/api/notifications/", "/api/topics/user.alice", "/api/"])
def test_a_route_that_is_none_is_a_404_in_the_same_shape(service: Api, path: str) -> None:
    assert refusal(service.get(path)) == (404, "not_found")


# What waits, and is answered before Django.
WAITING = {
    ("/api/stream", "GET"),
    ("/api/poll", "GET"),
    ("/api/client-messages/receive", "POST"),
    ("/api/sessions/{session}/receive", "POST"),
    ("/topics/{cache}/{topic}", "GET"),
}


def test_the_schema_lists_exactly_the_routes_of_the_url_map() -> None:
    generator: Any = SchemaGenerator
    schema = generator().get_schema(request=None, public=True)
    listed = {
        (path, method.upper())
        for path, operations in schema["paths"].items()
        for method in operations
        if method in APIView.http_method_names
    }
    assert {path for path, _method in WAITING} >= set(waiting)
    assert listed == WAITING.union(_routes(get_resolver().url_patterns, "/"))
    for operations in schema["paths"].values():
        for operation in operations.values():
            assert {"401", "403"} <= set(operation["responses"])


def _routes(patterns: list[URLPattern | URLResolver], start: str) -> Iterator[tuple[str, str]]:
    for pattern in patterns:
        path = start + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            if path.startswith("/api/"):
                yield from _routes(pattern.url_patterns, path)
            continue
        view: Callable[..., Any] | None = getattr(pattern.callback, "cls", None)
        if view is None or not path.startswith(("/api/", "/cache/", "/topics/")) or pattern.name in ("schema", "docs"):
            continue
        for part in ("uuid:", "path:", "str:"):
            path = path.replace(f"<{part}", "<")
        for method in APIView.http_method_names:
            if method != "options" and hasattr(view, method):
                yield path.replace("<", "{").replace(">", "}"), method.upper()
