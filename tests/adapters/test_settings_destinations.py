"""Destinations that settings ask for, and the shape in which SUMU's backends get what clients say."""

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from django.conf import LazySettings
from django.core.checks import run_checks
from django.core.management import call_command
from django.utils import timezone
from uuid_utils.compat import uuid7

from accounts.models import AuditEntry
from adapters import client_messages, destinations, outbox
from adapters.models import Delivery, Destination
from adapters.settings_destinations import ensure
from adapters.shapes import DestinationChange
from tests.adapters.aws_sides import arn_of, drain, make_queue
from tests.adapters.conftest import deliver, owe

if TYPE_CHECKING:
    from tests.emulators.aws import Aws

pytestmark = pytest.mark.django_db(transaction=True)

QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/dev-messages"
TOPIC = "arn:aws:sns:us-east-1:123456789012:dev-messages"


def asked_for(settings: LazySettings, queue: str = "", topic: str = "", presence: str = "") -> dict[str, list[str]]:
    """The events of each destination, after `migrate` with these settings."""
    settings.MESSAGES_QUEUE_URL, settings.MESSAGES_TOPIC_ARN, settings.PRESENCE_SOURCE = queue, topic, presence
    call_command("migrate", verbosity=0)
    return dict(Destination.objects.filter(deleted_at=None).values_list("address", "events"))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, {}),
        ({"queue": QUEUE}, {QUEUE: ["client.send", "presence"]}),
        ({"topic": TOPIC}, {TOPIC: ["client.publish", "presence"]}),
        ({"queue": QUEUE, "topic": TOPIC}, {QUEUE: ["client.send"], TOPIC: ["client.publish", "presence"]}),
        (
            {"queue": QUEUE, "topic": TOPIC, "presence": "queue"},
            {QUEUE: ["client.send", "presence"], TOPIC: ["client.publish"]},
        ),
    ],
)
def test_settings_say_what_goes_where(settings: LazySettings, given: Any, found: dict[str, list[str]]) -> None:
    assert asked_for(settings, **given) == found


def test_a_change_of_settings_changes_them_and_nothing_else_does(settings: LazySettings) -> None:
    asked_for(settings, queue=QUEUE)
    [row] = Destination.objects.all()
    assert (row.name, row.kind, row.options) == ("MESSAGES_QUEUE_URL", "sqs", {"shape": "sumu"})
    destinations.change(None, row, DestinationChange(enabled=False, topics=["user.a"]))
    entries = AuditEntry.objects.count()
    assert asked_for(settings, queue=QUEUE) == {QUEUE: ["client.send", "presence"]}
    assert asked_for(settings) == {QUEUE: ["client.send", "presence"]}  # Its setting is missing: it stays.
    assert AuditEntry.objects.count() == entries
    assert asked_for(settings, queue=f"{QUEUE}2") == {f"{QUEUE}2": ["client.send", "presence"]}
    [row] = Destination.objects.all()
    assert (row.enabled, row.topics) == (False, ["user.a"])
    assert AuditEntry.objects.latest("id").action == "destination.changed"


def test_one_that_was_deleted_is_made_again(settings: LazySettings) -> None:
    asked_for(settings, queue=QUEUE)
    destinations.delete(None, Destination.objects.get())
    assert asked_for(settings, queue=QUEUE) == {QUEUE: ["client.send", "presence"]}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("MESSAGES_QUEUE_URL", "dev-messages"),
        ("MESSAGES_TOPIC_ARN", QUEUE),
        ("PRESENCE_SOURCE", "lambda"),
        ("PRESENCE_SOURCE", "topic"),
    ],
)
def test_a_mistake_keeps_the_service_from_starting_with_its_setting(
    settings: LazySettings, setting: str, value: str
) -> None:
    setattr(settings, setting, value)
    [error] = [found for found in run_checks() if found.id == "adapters.E006"]
    assert setting in error.msg


def event(kind: str, message: Any) -> outbox.Event:
    data = {
        "message": message,
        "attributes": {"user_id": "alice", "timestamp": 1769860800071, "source": client_messages.SOURCES[kind]},
        "connection": "c",
        "account": None,
    }
    return outbox.Event(f"client.{kind}", uuid7(), "user.alice", msgspec.json.encode(data), timezone.now())


def test_backends_of_sumu_get_what_they_know(settings: LazySettings, aws: "Aws") -> None:
    queue, listener = make_queue(aws, "dev-messages"), make_queue(aws, "listener")
    sns = aws.client("sns")
    topic = sns.create_topic(Name="dev-messages")["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn_of(aws, listener))
    settings.MESSAGES_QUEUE_URL, settings.MESSAGES_TOPIC_ARN = queue, topic
    ensure()
    outbox.owe([event("send", {"text": "1.50 é"}), event("publish", [1, None])])
    status = {"user_id": "alice", "status": "ONLINE", "timestamp": 1769860800}
    attributes = {"source": "presence", "user_id": "alice", "timestamp": 1769860800071}
    told = {"type": "presence", "message": status, "attributes": attributes, "seq": 1, "reason": "opened"}
    owe("user.alice", kind="presence", data=msgspec.json.encode(told))
    deliver()
    assert set(Delivery.objects.values_list("state", flat=True)) == {"delivered"}

    [sent] = list(drain(aws, queue))
    assert json.loads(sent["Body"]) == {"text": "1.50 é"}
    said = {name: (one["DataType"], one["StringValue"]) for name, one in sent["MessageAttributes"].items()}
    assert said.pop("id")
    assert said == {
        "event": ("String", "client.send"),
        "user_id": ("String", "alice"),
        "timestamp": ("Number", "1769860800071"),
        "source": ("String", "apigw.route.send"),
    }
    envelopes = [json.loads(one["Body"]) for one in drain(aws, listener)]
    assert [json.loads(one["Message"]) for one in envelopes] == [[1, None], {"type": "presence", "message": status}]
    sources = [one["MessageAttributes"]["source"]["Value"] for one in envelopes]
    assert sources == ["apigw.route.publish", "presence"]


def test_other_events_go_out_as_they_are(settings: LazySettings, aws: "Aws") -> None:
    queue = make_queue(aws, "dev-messages")
    settings.MESSAGES_QUEUE_URL = queue
    ensure()
    destinations.change(None, Destination.objects.get(), DestinationChange(events=["message"]))
    owe("user.alice", data=b'{"message":"no attributes"}')
    deliver()
    [sent] = list(drain(aws, queue))
    assert json.loads(sent["Body"])["data"] == {"message": "no attributes"}
