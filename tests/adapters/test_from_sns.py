"""Records that a topic of SNS posts: believed by their signature only, each once, and none lost by a refusal."""

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any
from uuid import uuid4

import httpx
import pytest
from django.conf import LazySettings
from django.db import OperationalError
from django.http import HttpResponse
from django.test import Client
from pytest_django.live_server_helper import LiveServer

from accounts.errors import ApiError
from adapters.sources import sns, sns_letters
from notifications.models import Message
from tests.adapters.consuming import BAD, dead, good, taken, until
from tests.emulators import aws_sns
from tests.emulators.aws import REGION, Aws

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

TOPIC = f"arn:aws:sns:{REGION}:123456789012:orders"
SECRET = "a-password-of-32-letters-or-more"
PATH = "/api/ingest/orders/sns"
CERTIFICATE = "SimpleNotificationService-0123456789abcdef.pem"


@pytest.fixture(autouse=True)
def _source(aws: Aws, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.INGEST_SOURCES = {"orders": {"kind": "notification", "sns": TOPIC}}
    sns_letters._certificate.cache_clear()

    def get(url: str) -> bytes:
        """What the name server would do for AWS."""
        path = url.removeprefix(f"https://sns.{REGION}.amazonaws.com/")
        return httpx.get(f"{aws.endpoint_url}/{path}", trust_env=False).raise_for_status().content

    monkeypatch.setattr(sns_letters, "get", get)


def letter(message: str = good(1), *, version: str = "2", signed: bool = True, **changes: Any) -> dict[str, Any]:
    """What the topic posts; `changes` are made after it is signed, unless `signed` is false."""
    plain = {
        "Type": "Notification",
        "MessageId": str(uuid4()),
        "TopicArn": TOPIC,
        "Message": message,
        "Timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if not signed:
        return aws_sns.signed(plain | changes, REGION, version)
    return aws_sns.signed(plain, REGION, version) | changes


def post(body: dict[str, Any] | bytes, **headers: str) -> HttpResponse:
    client = Client(raise_request_exception=False)
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply: Any = client.generic("POST", PATH, text, "text/plain; charset=UTF-8", headers=headers)
    return reply  # type: ignore[no-any-return]


def refusal(reply: HttpResponse) -> tuple[int, str]:
    return reply.status_code, json.loads(reply.content)["error"]["message"]


def old(**past: float) -> str:
    return (datetime.now(UTC) - timedelta(**past)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_signed_notification_is_taken_once(version: str) -> None:
    sent = letter(version=version)
    assert [post(sent).status_code for _ in range(2)] == [202, 202]
    assert taken() == [1]


def test_a_subject_is_signed_too_and_attributes_make_no_new_record_of_it() -> None:
    sent = letter(signed=False, Subject="Hello")
    assert post(sent).status_code == 202
    assert post(sent | {"MessageAttributes": {"id": {"Type": "String", "Value": "new"}}}).status_code == 202
    assert post(sent | {"Subject": "Other"}).status_code == 401
    assert taken() == [1]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"Message": good(2)}, "signature is wrong"),
        ({"MessageId": "another"}, "signature is wrong"),
        ({"Signature": "AAAA"}, "signature is wrong"),
        ({"Signature": "ä"}, "signature is wrong"),
        ({"SignatureVersion": "3"}, "SignatureVersion"),
        ({"TopicArn": TOPIC + "-2"}, "TopicArn"),
        ({"SigningCertURL": "https://sns.us-east-1.amazonaws.com.evil.example/x.pem"}, "SigningCertURL"),
        ({"SigningCertURL": "https://sns.us-east-1.amazonaws.com@evil.example/x.pem"}, "SigningCertURL"),
        ({"SigningCertURL": "https://evil.amazonaws.com/x.pem"}, "SigningCertURL"),
        ({"SigningCertURL": "http://sns.us-east-1.amazonaws.com/x.pem"}, "SigningCertURL"),
        ({"SigningCertURL": "https://sns.eu-west-1.amazonaws.com/x.pem"}, "SigningCertURL"),
        ({"SigningCertURL": "https://[sns/x.pem"}, "SigningCertURL"),
        ({"SigningCertURL": "https://sns.us-east-1.amazonaws.com/?Action=GetEndpointAttributes"}, "SigningCertURL"),
        ({"SigningCertURL": f"https://sns.us-east-1.amazonaws.com/{CERTIFICATE}?Action=x"}, "SigningCertURL"),
        ({"SigningCertURL": f"https://sns.us-east-1.amazonaws.com/x/{CERTIFICATE}"}, "SigningCertURL"),
        ({"Type": "SubscriptionConfirmation", "Token": "t"}, "signature is wrong"),
    ],
)
def test_what_is_not_signed_by_the_topic_is_refused(changes: dict[str, Any], why: str) -> None:
    status, message = refusal(post(letter(**changes)))
    assert (status, why in message) == (401, True), message
    assert not Message.objects.exists()


@pytest.mark.parametrize("hours", [2, -1])
@pytest.mark.parametrize("zone", ["Z", ""])
def test_what_is_too_old_is_refused_though_it_is_signed(hours: int, zone: str) -> None:
    timestamp = old(hours=hours).removesuffix("Z") + zone
    assert "Timestamp" in refusal(post(letter(signed=False, Timestamp=timestamp)))[1]


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b'{"Type": "Notification"}', b"\xff", b'"' + b"[" * 5000])
def test_what_is_no_letter_is_refused_in_words(body: bytes) -> None:
    assert post(body).status_code == 400


def test_another_source_has_no_such_address(settings: LazySettings) -> None:
    settings.INGEST_SOURCES = {"orders": {"kind": "notification"}}
    assert refusal(post(letter()))[0] == 404


def test_a_record_that_cannot_be_taken_is_dead_and_not_sent_again() -> None:
    assert post(letter(BAD, signed=False, MessageId="bad-1")).status_code == 202
    assert dead() == ["bad-1"]


@pytest.mark.parametrize("error", [OperationalError("gone"), ApiError(409, "busy", "Later.", retry_after=1)])
def test_what_says_nothing_about_the_record_has_a_status_at_which_sns_comes_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any) -> None:
        raise error

    monkeypatch.setattr(sns, "ingest", fail)
    assert post(letter()).status_code == 503


def test_without_the_certificate_it_has_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(_url: str) -> bytes:
        raise sns_letters.Unreachable("no route")

    monkeypatch.setattr(sns_letters, "get", get)
    assert refusal(post(letter()))[0] == 503


# --- The whole way --------------------------------------------------------------------------------


@pytest.fixture
def topic(aws: Aws, settings: LazySettings) -> str:
    arn = str(aws.client("sns").create_topic(Name="orders")["TopicArn"])
    settings.INGEST_SOURCES = {"orders": {"kind": "notification", "sns": arn, "secrets": [SECRET]}}
    return arn


def test_a_topic_subscribes_and_delivers(topic: str, aws: Aws, live_server: LiveServer) -> None:
    client = aws.client("sns")
    client.subscribe(TopicArn=topic, Protocol="http", Endpoint=f"{live_server.url}{PATH}")

    def confirmed() -> bool:
        found = client.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
        attributes = client.get_subscription_attributes(SubscriptionArn=found[0]["SubscriptionArn"])["Attributes"]
        return bool(attributes["PendingConfirmation"] == "false")

    until(confirmed)
    client.publish(TopicArn=topic, Message=good("hello"), Subject="Hi")
    until(lambda: taken() == ["hello"])


def test_raw_delivery_needs_a_password(topic: str) -> None:
    raw = {
        "x-amz-sns-rawdelivery": "true",
        "x-amz-sns-message-id": "m-1",
        "x-amz-sns-topic-arn": topic,
        "x-amz-sns-message-type": "Notification",
    }
    body, right = good("raw").encode(), basic(SECRET)
    reply = post(body, **raw)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == 'Basic realm="orders"'
    for wrong in (basic("wrong"), basic(""), "Basic ???", "Bearer " + SECRET):
        assert post(body, **raw, Authorization=wrong).status_code == 401
    assert post(body, **raw | {"x-amz-sns-topic-arn": "arn:x"}, Authorization=right).status_code == 401
    assert [post(body, **raw, Authorization=right).status_code for _ in range(2)] == [202, 202]
    assert taken() == ["raw"]


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"sns:{password}".encode()).decode()


# --- What is fetched ------------------------------------------------------------------------------


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status = 302 if self.path == "/moved" else 200
        body = b"x" * (100_000 if self.path == "/large" else 3)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def pages() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), _Pages) as server:
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_pages_are_fetched_where_it_is_allowed_and_only_short_ones(
    pages: str, settings: LazySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    began = time.monotonic()
    with pytest.raises(sns_letters.Unreachable, match="WEBHOOK_NETWORKS"):
        sns_letters.get(f"{pages}/")
    settings.WEBHOOK_NETWORKS = ["127.0.0.0/8"]
    assert sns_letters.get(f"{pages}/") == b"xxx"
    for path in ("/large", "/moved"):
        with pytest.raises(sns_letters.Unreachable):
            sns_letters.get(f"{pages}{path}")
    assert time.monotonic() - began < 5
