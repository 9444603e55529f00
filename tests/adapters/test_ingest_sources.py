"""INGEST_SOURCES and its shortcuts: where records come from, read strictly."""

import json
from typing import Any

import pytest
from django.conf import LazySettings
from django.core.exceptions import ImproperlyConfigured

from adapters import checks
from adapters.ingest import Record
from adapters.ingest_settings import MomentoTopic, Source, sources
from adapters.sources.envelopes import opened

pytestmark = pytest.mark.any_database

QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012/orders"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:orders"
STREAM = "arn:aws:kinesis:eu-west-1:123456789012:stream/clicks"
FROM_SNS = {"Type": "Notification", "MessageId": "m-1", "TopicArn": TOPIC, "Message": "{}", "Timestamp": "2026-01-31"}
EVENT = {
    "version": "0",
    "id": "e-1",
    "detail-type": "notify",
    "source": "shop",
    "account": "123456789012",
    "time": "2026-01-31T12:00:00Z",
    "region": "eu-west-1",
    "resources": [],
    "detail": {"data": 1},
}


@pytest.mark.parametrize(
    ("entry", "place"),
    [
        ({"queue": QUEUE}, "queue"),
        ({"queue": "http://127.0.0.1:5000/1/q.fifo", "envelope": "sns"}, "queue"),
        ({"stream": "clicks", "start": "newest"}, "stream"),
        ({"stream": STREAM}, "stream"),
        ({"momento": {"cache": "c", "topic": "t"}}, "momento"),
        ({"sns": TOPIC}, ""),
        ({}, ""),
    ],
)
def test_where_records_come_from(entry: dict[str, Any], place: str, settings: LazySettings) -> None:
    settings.INGEST_SOURCES = {"shop": {"kind": "sumu", **entry}}
    assert not checks.check_ingest_sources()
    assert sources()["shop"].consumed == place


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"queue": QUEUE, "stream": "clicks"}, "queue and stream are two sources"),
        ({"queue": "orders"}, "queue is the URL of an SQS queue"),
        ({"stream": "my clicks"}, "name or the ARN"),
        ({"stream": TOPIC}, "name or the ARN"),
        ({"sns": "orders"}, "sns is the ARN"),
        ({"momento": {"cache": "c"}}, "topic"),
        ({"momento": {"cache": "", "topic": "t"}}, "cache and topic"),
        ({"momento": "t"}, "momento"),
        ({"queue": QUEUE, "envelope": "SNS"}, "envelope"),
        ({"envelope": "sns"}, "envelope goes with"),
        ({"queue": QUEUE, "start": "newest"}, "start goes with stream"),
        ({"queues": QUEUE}, "queues"),
    ],
)
def test_what_is_half_right_is_refused_with_what_to_do(
    entry: dict[str, Any], says: str, settings: LazySettings
) -> None:
    settings.INGEST_SOURCES = {"shop": {"kind": "sumu", **entry}}
    (error,) = checks.check_ingest_sources()
    assert "'shop'" in error.msg
    assert says in error.msg


def test_sumus_settings_make_sources_that_may_broadcast(settings: LazySettings) -> None:
    settings.INGEST_SOURCES = {"other": {"kind": "sumu"}}
    settings.NOTIFICATIONS_QUEUE_URL, settings.NOTIFICATIONS_TOPIC_ARN = QUEUE, TOPIC
    assert not checks.check_ingest_sources()
    assert sources() == {
        "other": Source("other", "sumu"),
        "notifications-queue": Source("notifications-queue", "sumu", broadcasts=True, queue=QUEUE),
        "notifications-topic": Source("notifications-topic", "sumu", broadcasts=True, sns=TOPIC),
    }
    settings.INGEST_SOURCES = {"notifications-queue": {"kind": "sumu"}}
    with pytest.raises(ImproperlyConfigured, match="choose another"):
        sources()


def test_a_topic_of_momento_has_a_cache(settings: LazySettings) -> None:
    settings.INGEST_SOURCES = {"shop": {"kind": "sumu", "momento": {"cache": "c", "topic": "t"}}}
    assert sources()["shop"].momento == MomentoTopic("c", "t")


# --- Envelopes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("envelope", "kind", "body", "found"),
    [
        (None, "sumu", FROM_SNS, Record("m-1", b"{}")),
        ("sns", "sumu", FROM_SNS, Record("m-1", b"{}")),
        ("none", "sumu", FROM_SNS, None),
        ("eventbridge", "sumu", FROM_SNS, None),
        (None, "sumu", EVENT, Record("e-1", b'{"data": 1}')),
        ("sns", "sumu", EVENT, None),
        (None, "eventbridge", EVENT, Record("e-1", json.dumps(EVENT).encode())),
        (None, "sumu", FROM_SNS | {"Message": json.dumps(EVENT)}, Record("e-1", b'{"data": 1}')),
        (None, "sumu", FROM_SNS | {"TopicArn": "x"}, None),
        (None, "reuters", {"Type": "Notification", "Message": "of its own"}, None),
        (None, "sumu", {name: EVENT[name] for name in EVENT if name != "region"}, None),
        (
            None,
            "sumu",
            FROM_SNS | {"MessageAttributes": {"id": {"Type": "String", "Value": "own"}}},
            Record("own", b"{}"),
        ),
        (None, "sumu", FROM_SNS | {"MessageAttributes": {"id": 1}}, Record("m-1", b"{}")),
    ],
)
def test_envelopes_are_taken_off_where_they_are_whole(
    envelope: Any, kind: str, body: dict[str, Any], found: Record | None
) -> None:
    record = Record("outer", json.dumps(body).encode())
    assert opened(Source("shop", kind, envelope=envelope), record) == (found or record)


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 5000, b'"text"', b"null"])
def test_what_is_no_envelope_stays_as_it_is(body: bytes) -> None:
    assert opened(Source("shop", "sumu"), Record("outer", body)) == Record("outer", body)
