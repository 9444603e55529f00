"""The emulator as boto3 sees it: what tests of the product rely on."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Thread
from typing import Any

import httpx
import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.emulators.aws import ACCOUNT, REGION, Aws

pytestmark = pytest.mark.any_database

WAIT_SECONDS = 10


@dataclass
class Endpoint:
    """An HTTP server that keeps what it gets: (method, path, headers, body)."""

    url: str = ""
    status: int = 200
    calls: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)
    changed: Condition = field(default_factory=Condition)

    def wait(self, count: int) -> list[tuple[str, str, dict[str, str], bytes]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls) >= count, WAIT_SECONDS)
            return list(self.calls)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    kept = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with kept.changed:
                headers = {name.lower(): value for name, value in self.headers.items()}
                kept.calls.append((self.command, self.path, headers, body))
                kept.changed.notify_all()
            self.send_response(kept.status)
            self.end_headers()

        do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    kept.url = f"http://127.0.0.1:{server.server_port}"
    yield kept
    server.shutdown()
    server.server_close()


def until(found: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def test_a_message_goes_through_a_queue(aws: Aws) -> None:
    sqs = aws.client("sqs")
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="hello")
    assert sqs.receive_message(QueueUrl=url)["Messages"][0]["Body"] == "hello"
    assert aws.calls("SendMessage") == 1


def test_nothing_is_left_for_the_next_test(aws: Aws) -> None:
    assert "QueueUrls" not in aws.client("sqs").list_queues()


def test_failures_as_ordered(aws: Aws) -> None:
    sqs = aws.client("sqs")
    aws.fail("ListQueues", times=1)
    with pytest.raises(ClientError, match="ThrottlingException"):
        sqs.list_queues()
    sqs.list_queues()
    sns = aws.client("sns")
    aws.fail("ListTopics", status=500, code="InternalFailure", times=1)
    with pytest.raises(ClientError, match="InternalFailure"):
        sns.list_topics()
    sns.list_topics()


def test_a_late_failure_has_had_its_effect(aws: Aws) -> None:
    sqs = aws.client("sqs")
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    aws.fail("SendMessage", status=503, code="ServiceUnavailable", times=1, late=True)
    with pytest.raises(ClientError):
        sqs.send_message(QueueUrl=url, MessageBody="hello")
    assert len(sqs.receive_message(QueueUrl=url)["Messages"]) == 1


def test_some_entries_of_a_batch_fail(aws: Aws) -> None:
    sqs, sns, events, kinesis = (aws.client(name) for name in ("sqs", "sns", "events", "kinesis"))
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    aws.fail("SendMessageBatch", status=500, code="InternalError", entries=[1], times=1)
    entries = [{"Id": str(number), "MessageBody": str(number)} for number in range(3)]
    answer = sqs.send_message_batch(QueueUrl=url, Entries=entries)
    assert [sent["Id"] for sent in answer["Successful"]] == ["0", "2"]
    failed = {"Id": "1", "SenderFault": False, "Code": "InternalError", "Message": "As ordered"}
    assert answer["Failed"] == [failed]
    assert len(sqs.send_message_batch(QueueUrl=url, Entries=entries)["Successful"]) == 3
    topic = sns.create_topic(Name="t")["TopicArn"]
    aws.fail("PublishBatch", entries=[0])
    messages = [{"Id": str(number), "Message": "m"} for number in range(2)]
    answer = sns.publish_batch(TopicArn=topic, PublishBatchRequestEntries=messages)
    assert [sent["Id"] for sent in answer["Failed"]] == ["0"]
    aws.fail("PutEvents", code="InternalFailure", entries=[0])
    event = {"Source": "s", "DetailType": "d", "Detail": "{}"}
    answer = events.put_events(Entries=[event, event])
    assert answer["FailedEntryCount"] == 1
    assert answer["Entries"][0]["ErrorCode"] == "InternalFailure"
    kinesis.create_stream(StreamName="s", ShardCount=1)
    aws.fail("PutRecords", code="ProvisionedThroughputExceededException", entries=[1])
    records = [{"Data": b"d", "PartitionKey": "k"} for _ in range(3)]
    answer = kinesis.put_records(StreamName="s", Records=records)
    assert answer["FailedRecordCount"] == 1
    assert ["ErrorCode" in record for record in answer["Records"]] == [False, True, False]


def test_fifo_messages_are_numbered_and_repetitions_known(aws: Aws) -> None:
    sqs = aws.client("sqs")
    url = sqs.create_queue(QueueName="q.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    for body in ("a", "b"):
        sqs.send_message(QueueUrl=url, MessageBody=body, MessageGroupId="g", MessageDeduplicationId=body)
    messages = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"])["Messages"]
    assert [message["Body"] for message in messages] == ["a", "b"]
    first, second = (int(message["Attributes"]["SequenceNumber"]) for message in messages)
    assert first < second
    for message in messages:
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    sqs.send_message(QueueUrl=url, MessageBody="a", MessageGroupId="g", MessageDeduplicationId="a")
    assert "Messages" not in sqs.receive_message(QueueUrl=url)


def test_dead_letters_are_moved_back(aws: Aws) -> None:
    sqs = aws.client("sqs")
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    dead_arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:dead"
    policy = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 1})
    url = sqs.create_queue(QueueName="q", Attributes={"RedrivePolicy": policy})["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="poison")
    assert sqs.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"]
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    assert sqs.receive_message(QueueUrl=dead, VisibilityTimeout=0)["Messages"][0]["Body"] == "poison"
    sqs.start_message_move_task(SourceArn=dead_arn)
    assert sqs.receive_message(QueueUrl=url)["Messages"][0]["Body"] == "poison"
    (task,) = sqs.list_message_move_tasks(SourceArn=dead_arn)["Results"]
    assert (task["Status"], task["ApproximateNumberOfMessagesMoved"]) == ("COMPLETED", 1)


def at_home(aws: Aws, url: str) -> str:
    """A URL of SNS, as the emulator serves it."""
    return aws.endpoint_url + url.partition("amazonaws.com")[2]


def is_signed(aws: Aws, message: dict[str, str]) -> bool:
    names = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
    text = "".join(f"{name}\n{message[name]}\n" for name in names if name in message)
    pem = httpx.get(at_home(aws, message["SigningCertURL"])).content
    key = x509.load_pem_x509_certificate(pem).public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    algorithm = {"1": hashes.SHA1(), "2": hashes.SHA256()}[message["SignatureVersion"]]
    key.verify(base64.b64decode(message["Signature"]), text.encode(), padding.PKCS1v15(), algorithm)
    return True


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_topic_calls_an_endpoint_that_confirmed(aws: Aws, endpoint: Endpoint, version: str) -> None:
    sns = aws.client("sns")
    topic = sns.create_topic(Name="t", Attributes={"SignatureVersion": version})["TopicArn"]
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=f"{endpoint.url}/sns")
    ((_, path, headers, body),) = endpoint.wait(1)
    assert (path, headers["x-amz-sns-message-type"]) == ("/sns", "SubscriptionConfirmation")
    asked = json.loads(body)
    assert is_signed(aws, asked)
    sns.publish(TopicArn=topic, Message="too early")
    if version == "1":
        arn = sns.confirm_subscription(TopicArn=topic, Token=asked["Token"])["SubscriptionArn"]
    else:
        assert "ConfirmSubscriptionResult" in httpx.get(at_home(aws, asked["SubscribeURL"])).text
        (arn,) = (found["SubscriptionArn"] for found in sns.list_subscriptions()["Subscriptions"])
    attributes = {"id": {"DataType": "String", "StringValue": "1"}}
    sns.publish(TopicArn=topic, Message="hello", Subject="s", MessageAttributes=attributes)
    _, (_, _, headers, body) = endpoint.wait(2)
    told = json.loads(body)
    assert headers["x-amz-sns-message-type"] == told["Type"] == "Notification"
    assert headers["x-amz-sns-subscription-arn"] == arn
    assert (told["Message"], told["MessageAttributes"]) == ("hello", {"id": {"Type": "String", "Value": "1"}})
    assert told["SignatureVersion"] == version
    assert is_signed(aws, told)
    sns.set_subscription_attributes(SubscriptionArn=arn, AttributeName="RawMessageDelivery", AttributeValue="true")
    sns.publish(TopicArn=topic, Message="raw")
    *_, (_, _, headers, body) = endpoint.wait(3)
    assert (headers["x-amz-sns-rawdelivery"], body) == ("true", b"raw")


def make_destination(aws: Aws, url: str, method: str, target: dict[str, Any], pattern: str = "thing") -> str:
    """A rule that calls it -> the URL of its dead letters."""
    events, sqs = aws.client("events"), aws.client("sqs")
    dead = sqs.create_queue(QueueName="dead")["QueueUrl"]
    key = {"ApiKeyAuthParameters": {"ApiKeyName": "Authorization", "ApiKeyValue": "secret"}}
    connection = events.create_connection(Name="c", AuthorizationType="API_KEY", AuthParameters=key)
    destination = events.create_api_destination(
        Name="d", ConnectionArn=connection["ConnectionArn"], InvocationEndpoint=url, HttpMethod=method
    )
    events.put_rule(Name="r", EventPattern=json.dumps({"detail-type": [pattern]}))
    letters = {"Arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:dead"}
    arn = destination["ApiDestinationArn"]
    events.put_targets(Rule="r", Targets=[{"Id": "1", "Arn": arn, "DeadLetterConfig": letters, **target}])
    return str(dead)


def put(aws: Aws, detail: dict[str, Any]) -> None:
    aws.client("events").put_events(Entries=[{"Source": "demo", "DetailType": "thing", "Detail": json.dumps(detail)}])


def test_events_call_a_destination(aws: Aws, endpoint: Endpoint) -> None:
    parameters = {
        "PathParameterValues": ["$.detail.cache"],
        "QueryStringParameters": {"key": "$.detail.key", "key_base64": "$.detail.key_base64", "fixed": "1"},
        "HeaderParameters": {"X-Kind": "$.detail-type"},
    }
    transformer = {"InputPathsMap": {"message": "$.detail.message"}, "InputTemplate": "<message>"}
    target = {"HttpParameters": parameters, "InputTransformer": transformer}
    make_destination(aws, f"{endpoint.url}/cache/*", "PUT", target)
    put(aws, {"cache": "a b/c", "key": "k&", "message": 'say "hi"'})
    ((method, path, headers, body),) = endpoint.wait(1)
    assert (method, path, body) == ("PUT", "/cache/a%20b%2Fc?key=k%26&fixed=1", b'say "hi"')
    assert (headers["authorization"], headers["x-kind"]) == ("secret", "thing")


@pytest.mark.parametrize(
    ("template", "body"),
    [
        ('{"a": <a>, "b": "is <a>", "n": <n>}', b'{"a": "x\\"y", "b": "is x\\"y", "n": {"m": 1}}'),
        ('"text <a>"', b'text x"y'),
    ],
)
def test_inputs_are_transformed(aws: Aws, endpoint: Endpoint, template: str, body: bytes) -> None:
    paths = {"a": "$.detail.a", "n": "$.detail.n"}
    target = {"InputTransformer": {"InputPathsMap": paths, "InputTemplate": template}}
    make_destination(aws, endpoint.url, "POST", target)
    put(aws, {"a": 'x"y', "n": {"m": 1}})
    assert endpoint.wait(1)[0][3] == body


def test_events_that_are_refused_become_dead_letters(aws: Aws, endpoint: Endpoint) -> None:
    endpoint.status = 404
    dead = make_destination(aws, endpoint.url, "POST", {})
    put(aws, {"a": 1})
    sqs = aws.client("sqs")
    wanted = {"QueueUrl": dead, "MessageAttributeNames": ["All"]}
    (letter,) = until(lambda: sqs.receive_message(**wanted).get("Messages"))
    assert json.loads(letter["Body"])["detail"] == {"a": 1}
    assert "404" in letter["MessageAttributes"]["ERROR_MESSAGE"]["StringValue"]
    assert len(endpoint.calls) == 1
    endpoint.status = 503
    put(aws, {"a": 2})
    (letter,) = until(lambda: sqs.receive_message(**wanted).get("Messages"))
    assert letter["MessageAttributes"]["RETRY_ATTEMPTS"]["StringValue"] == "3"
    assert len(endpoint.calls) == 5


def test_rights_are_enforced_on_request(aws: Aws) -> None:
    sqs, iam = aws.client("sqs"), aws.client("iam")
    mine = sqs.create_queue(QueueName="mine")["QueueUrl"]
    others = sqs.create_queue(QueueName="others")["QueueUrl"]
    iam.create_user(UserName="u")
    key = iam.create_access_key(UserName="u")["AccessKey"]
    allowed = {"Effect": "Allow", "Action": "sqs:SendMessage", "Resource": f"arn:aws:sqs:{REGION}:{ACCOUNT}:mine"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_user_policy(UserName="u", PolicyName="p", PolicyDocument=policy)
    aws.enforce_iam()
    user = aws.client("sqs", aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"])
    user.send_message(QueueUrl=mine, MessageBody="hello")
    with pytest.raises(ClientError, match="403"):
        user.send_message(QueueUrl=others, MessageBody="hello")
