"""deploy/cloudformation.yaml: valid, named by stage, gone with one delete, and with no more rights than it takes."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError
from django.conf import settings

from adapters.aws import clients
from adapters.aws.sns import Topic
from adapters.aws.sqs import Queue
from adapters.base import Adapter, Misconfigured, Target
from adapters.secret_values import SecretValue
from tests.adapters.contract import parcel

if TYPE_CHECKING:
    from tests.emulators.aws import Aws
    from tests.emulators.cloudformation import Stack

pytestmark = pytest.mark.any_database

ENDPOINT = "https://fanfare.example.com"
SECRET = "/fanfare/qa/momento-api-key"


@pytest.fixture
def stack(aws: "Aws") -> "Stack":
    from tests.emulators.cloudformation import Stack

    return Stack(aws, ENDPOINT, "key", stage="qa")


def names(aws: "Aws") -> list[str]:
    """Of all that is there, in order."""
    sqs, sns, events = aws.client("sqs"), aws.client("sns"), aws.client("events")
    found = [url.rpartition("/")[2] for url in sqs.list_queues().get("QueueUrls", [])]
    found += [one["TopicArn"].rpartition(":")[2] for one in sns.list_topics()["Topics"]]
    found += [one["Name"] for one in events.list_rules()["Rules"]]
    found += [one["Name"] for one in events.list_api_destinations()["ApiDestinations"]]
    found += [one["Name"] for one in events.list_connections()["Connections"]]
    found += [one["RoleName"] for one in aws.client("iam").list_roles()["Roles"]]
    found += [one["AlarmName"] for one in aws.client("cloudwatch").describe_alarms()["MetricAlarms"]]
    found += [one["Name"] for one in aws.client("secretsmanager").list_secrets()["SecretList"]]
    return sorted(found)


@pytest.mark.filterwarnings("ignore")  # The linter's own.
def test_the_linter_finds_nothing() -> None:
    from cfnlint import api

    from tests.emulators.cloudformation import TEMPLATE

    assert [str(match) for match in api.lint_file(TEMPLATE)] == []


def test_all_that_is_made_has_the_stage_in_its_name_and_goes_with_it(aws: "Aws", stack: "Stack") -> None:
    from tests.emulators.cloudformation import Stack

    found = names(aws)
    assert len(found) >= 20
    assert not [name for name in found if "fanfare-qa" not in name and not name.startswith(("/fanfare/qa/", "events!"))]
    other = Stack(aws, ENDPOINT, "key", stage="pr-17", SecretsStage="qa")
    assert len(names(aws)) == 2 * len(found) - 1  # Of the secret there is one.
    other.delete()
    assert names(aws) == found
    stack.delete()
    assert names(aws) == []


def test_every_queue_has_dead_letters_and_they_an_alarm(aws: "Aws", stack: "Stack") -> None:
    sqs = aws.client("sqs")
    alarms = aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
    watched = {one["Dimensions"][0]["Value"] for one in alarms}
    for url in sqs.list_queues()["QueueUrls"]:
        name = url.rpartition("/")[2]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        if name.endswith("-dead"):
            assert name in watched
            assert attributes["MessageRetentionPeriod"] == str(14 * 24 * 3600)
        else:
            assert json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].endswith(f"{name}-dead")


def test_alarms_go_to_the_topic_that_is_given(aws: "Aws") -> None:
    from tests.emulators.cloudformation import Stack

    topic = aws.client("sns").create_topic(Name="pager")["TopicArn"]
    Stack(aws, ENDPOINT, "key", AlarmTopic=topic)
    alarms = aws.client("cloudwatch").describe_alarms()["MetricAlarms"]
    assert [one["AlarmActions"] for one in alarms] == [[topic]] * 4


def test_the_outputs_are_what_the_settings_want(stack: "Stack") -> None:
    Queue.validate(stack.outputs["MessagesQueueUrl"])
    Queue.validate(stack.outputs["NotificationsQueueUrl"])
    Topic.validate(stack.outputs["MessagesTopicArn"])
    Topic.validate(stack.outputs["NotificationsTopicArn"])


def put(aws: "Aws", kind: str, detail: dict[str, Any]) -> None:
    entry = {"Source": "test", "DetailType": kind, "Detail": json.dumps(detail)}
    assert aws.client("events").put_events(Entries=[entry])["FailedEntryCount"] == 0


@pytest.mark.parametrize("detail", [{"cacheName": "c"}, {"cacheName": "c", "key": "a", "key_base64": "YQ=="}])
@pytest.mark.parametrize("kind", ["cacheSet", "cacheDelete"])
def test_events_without_one_key_are_dead_letters(aws: "Aws", stack: "Stack", kind: str, detail: dict[str, Any]) -> None:
    put(aws, kind, {**detail, "message": "x", "ttl": 60})
    sqs = aws.client("sqs")
    queue = sqs.get_queue_url(QueueName="fanfare-qa-events-dead")["QueueUrl"]
    [message] = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert json.loads(message["Body"])["detail"]["cacheName"] == "c"


@pytest.fixture
def assumed(aws: "Aws", stack: "Stack", monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The product has the role of the service, and its rights count."""
    role = aws.client("sts").assume_role(RoleArn=stack.outputs["ServiceRoleArn"], RoleSessionName="test")
    credentials = role["Credentials"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials["SecretAccessKey"])
    monkeypatch.setenv("AWS_SESSION_TOKEN", credentials["SessionToken"])
    clients.forget()
    aws.enforce_iam()
    yield
    clients.forget()


async def sent(adapter_class: type[Adapter], address: str) -> str:
    adapter = adapter_class(Target(uuid4(), "x", address))
    try:
        await adapter.check()
        [outcome] = await adapter.publish([parcel()])
        return outcome.error
    except Misconfigured as error:
        return str(error)
    finally:
        await adapter.close()


@pytest.fixture
def around(aws: "Aws") -> str:
    """What else is in the account: a queue, whose URL it is, and a secret."""
    aws.client("ssm").put_parameter(Name=SECRET, Value="secret", Type="SecureString")
    url: str = aws.client("sqs").create_queue(QueueName="stranger")["QueueUrl"]
    return url


@pytest.mark.usefixtures("around", "assumed")  # In this order: then rights count.
async def test_the_role_has_the_rights_that_the_service_takes_and_no_more(around: str, stack: "Stack") -> None:
    assert await sent(Queue, stack.outputs["MessagesQueueUrl"]) == ""
    assert await sent(Topic, stack.outputs["MessagesTopicArn"]) == ""
    assert SecretValue("ssm:", SECRET).get() == "secret"
    for queue in (around, stack.outputs["NotificationsQueueUrl"]):
        assert "right" in await sent(Queue, queue)
    for service, call, arguments in FORBIDDEN:
        with pytest.raises(ClientError) as refused:
            getattr(clients.client(service), call)(**arguments)
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, call


FORBIDDEN: list[tuple[str, str, dict[str, Any]]] = [
    ("sqs", "create_queue", {"QueueName": "x"}),
    ("sns", "create_topic", {"Name": "x"}),
    ("ssm", "put_parameter", {"Name": "/fanfare/qa/x", "Value": "x", "Type": "String"}),
    ("iam", "create_user", {"UserName": "x"}),
]


def resources(stack: "Stack") -> set[str]:
    """What the rights of all roles are for."""
    policies = [one["Properties"] for one in stack.of("AWS::IAM::Policy").values()]
    for role in stack.of("AWS::IAM::Role").values():
        policies += role["Properties"]["Policies"]
    found: set[str] = set()
    for policy in stack.value(policies):
        for statement in policy["PolicyDocument"]["Statement"]:
            arns = statement["Resource"]
            found |= {arns} if isinstance(arns, str) else set(arns)
    return found


def test_every_right_is_for_resources_of_one_stage(stack: "Stack") -> None:
    """Which the emulator cannot enforce but for queues."""
    for arn in resources(stack):
        assert "fanfare-qa" in arn or "/fanfare/qa/" in arn or arn.endswith(":event-bus/default"), arn


def test_what_not_every_stage_needs_is_there_when_it_is_asked_for(aws: "Aws", stack: "Stack") -> None:
    from tests.emulators.cloudformation import Stack

    stream = "arn:aws:kinesis:us-east-1:123456789012:stream/clicks"
    more = Stack(aws, ENDPOINT, "key", stage="pr", CeleryOnSqs="true", BrowserQueues="true", ReadStream=stream)
    celery = {f"fanfare-pr-{name}" for name in ("celery", "celery-tasks", "celery-outside")}
    assert {name for name in names(aws) if "celery" in name} == celery | {"fanfare-pr-celery-dead"}
    assert not [arn for arn in resources(stack) if "celery" in arn or "kinesis" in arn]
    assert {arn.rpartition(":")[2] for arn in resources(more) if "celery" in arn} == celery
    assert stream in resources(more)
    assert {arn.rpartition(":")[2] for arn in resources(more) if "session" in arn} == {"fanfare-pr-session-*"}
    assert more.outputs["BrowserRoleArn"] == "arn:aws:iam::123456789012:role/fanfare-pr-browsers"
    assert more.outputs["BrowserRoleArn"] in resources(more)
    sqs = aws.client("sqs")
    for name in celery:
        url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert int(attributes["VisibilityTimeout"]) > settings.CELERY_TASK_TIME_LIMIT
        assert "celery-dead" in attributes["RedrivePolicy"]
    more.delete()
    assert not [name for name in names(aws) if "celery" in name]


def test_the_endpoints_learn_of_each_event_which_it_is_and_when_it_happened(stack: "Stack") -> None:
    """So that they can tell repetitions, and what comes late."""
    found = [stack.value(rule["Properties"]["Targets"][0]) for rule in stack.of("AWS::Events::Rule").values()]
    endpoints = [one["HttpParameters"] for one in found if "HttpParameters" in one]
    assert len(endpoints) == 5
    assert {one["HeaderParameters"]["Idempotency-Key"] for one in endpoints} == {"$.id"}
    caches = [one["QueryStringParameters"] for one in endpoints if "QueryStringParameters" in one]
    assert [one["time"] for one in caches] == ["$.time"] * 4
