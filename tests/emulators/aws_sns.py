"""SNS's calls to HTTP endpoints, as moto does not make them: confirmed first, signed, with their headers, retried."""

import base64
import datetime
import json
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any
from urllib.parse import urlencode

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID
from moto.core.responses import ActionResult
from moto.sns import models
from moto.sns.exceptions import SNSInvalidParameter, SNSNotFoundError
from moto.sns.responses import SNSResponse
from moto.sqs.models import sqs_backends

RETRY_SECONDS = (0.05, 0.1, 0.3)
CALL_SECONDS = 15
SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
CERTIFICATE_NAME = "SimpleNotificationService-emulator.pem"

_pool = ThreadPoolExecutor(4, thread_name_prefix="sns")
_publish = models.Subscription.publish
_subscribe = models.SNSBackend.subscribe


@cache
def signing_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def certificate() -> bytes:
    """PEM, of the key that signs."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(signing_key().public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .sign(signing_key(), hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


def signed(message: dict[str, Any], region: str, version: str) -> dict[str, Any]:
    """The message with its signature and where its certificate is, as a real topic says it."""
    lines = [part for name in SIGNED[message["Type"]] if name in message for part in (name, message[name])]
    text = ("\n".join(lines) + "\n").encode()
    algorithm = hashes.SHA256() if version == "2" else hashes.SHA1()  # SNS's own first version.
    signature = signing_key().sign(text, padding.PKCS1v15(), algorithm)
    return message | {
        "SignatureVersion": version,
        "Signature": base64.b64encode(signature).decode(),
        "SigningCertURL": f"https://sns.{region}.amazonaws.com/{CERTIFICATE_NAME}",
    }


def get_post_data(
    subscription: Any,
    message: str,
    message_id: str,
    subject: str | None,
    message_attributes: dict[str, Any] | None = None,
    **others: str,
) -> dict[str, Any]:
    """The envelope of a notification; `others` make another message of it."""
    topic = subscription.topic
    region = topic.sns_backend.region_name
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    envelope = {"Type": "Notification", "MessageId": message_id, "TopicArn": topic.arn, "Message": message}
    envelope |= {"Timestamp": now, **others}
    if subject:
        envelope["Subject"] = subject
    made = signed(envelope, region, str(getattr(topic, "signature_version", None) or "1"))
    if made["Type"] == "Notification":
        query = urlencode({"Action": "Unsubscribe", "SubscriptionArn": subscription.arn})
        made["UnsubscribeURL"] = f"https://sns.{region}.amazonaws.com/?{query}"
    if message_attributes:
        made["MessageAttributes"] = {
            name: {"Type": value["Type"], "Value": text_of(value["Value"])}
            for name, value in message_attributes.items()
        }
    return made


def text_of(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def subscribe(backend: Any, topic_arn: str, endpoint: str, protocol: str) -> Any:
    """A new HTTP endpoint is asked first whether it wants to."""
    known = backend._find_subscription(topic_arn, endpoint, protocol)
    subscription: Any = _subscribe(backend, topic_arn, endpoint, protocol)
    if known is None and protocol in ("http", "https"):
        subscription.attributes["PendingConfirmation"] = True
        subscription.token = uuid.uuid4().hex * 4
        region = backend.region_name
        query = {"Action": "ConfirmSubscription", "TopicArn": topic_arn, "Token": subscription.token}
        asked = get_post_data(
            subscription,
            f"You have chosen to subscribe to the topic {topic_arn}.",
            str(uuid.uuid4()),
            None,
            Type="SubscriptionConfirmation",
            Token=subscription.token,
            SubscribeURL=f"https://sns.{region}.amazonaws.com/?{urlencode(query)}",
        )
        _pool.submit(deliver, subscription, asked, json.dumps(asked).encode(), raw=False)
    return subscription


def confirm_subscription(response: Any) -> ActionResult:
    topic, token = response._get_param("TopicArn"), response._get_param("Token")
    if topic not in response.backend.topics:
        raise SNSNotFoundError("Topic does not exist")
    for subscription in response.backend.subscriptions.values():
        if subscription.topic.arn == topic and getattr(subscription, "token", None) == token:
            subscription.attributes["PendingConfirmation"] = False
            subscription.confirmed = True
            return ActionResult({"SubscriptionArn": subscription.arn})
    raise SNSInvalidParameter("Invalid parameter: Token")


def publish(subscription: Any, message: str, message_id: str, subject: str | None = None, **others: Any) -> None:
    if subscription.protocol not in ("http", "https"):
        _publish(subscription, message, message_id, subject, **others)
        return
    attributes = others.get("message_attributes")
    matcher = subscription._filter_policy_matcher
    if subscription.attributes["PendingConfirmation"] or (matcher and not matcher.matches(attributes, message)):
        return
    if others.get("message_structure") == "json":
        message = subscription._parse_message_structure(message, subscription.protocol)
    envelope = get_post_data(subscription, message, message_id, subject, attributes)
    raw = str(subscription.attributes.get("RawMessageDelivery")).lower() == "true"
    body = message if raw else json.dumps(envelope)
    _pool.submit(deliver, subscription, envelope, body.encode(), raw=raw)


def deliver(subscription: Any, envelope: dict[str, Any], body: bytes, *, raw: bool) -> None:
    """Tries a few times, then the message goes to the subscription's dead letters, if it has some."""
    headers = {
        "Content-Type": "text/plain; charset=UTF-8",
        "User-Agent": "Amazon Simple Notification Service Agent",
        "x-amz-sns-message-type": envelope["Type"],
        "x-amz-sns-message-id": envelope["MessageId"],
        "x-amz-sns-topic-arn": envelope["TopicArn"],
    }
    if envelope["Type"] == "Notification":
        headers["x-amz-sns-subscription-arn"] = subscription.arn
    if raw:
        headers["x-amz-sns-rawdelivery"] = "true"
    if called(lambda client: client.post(subscription.endpoint, content=body, headers=headers)):
        return
    policy = json.loads(subscription.attributes.get("RedrivePolicy") or "{}")
    if policy:
        _, _, _, region, account, name = policy["deadLetterTargetArn"].split(":")
        sqs_backends[account][region].send_message(name, body.decode())


def called(call: Callable[[httpx.Client], httpx.Response]) -> bool:
    """Whether one of the tries was answered with 2xx; what is wrong with a request is not tried again."""
    with httpx.Client(timeout=CALL_SECONDS, verify=False, trust_env=False) as client:
        for seconds in (*RETRY_SECONDS, None):
            try:
                response = call(client)
                if response.is_success:
                    return True
                if response.status_code < 500 and response.status_code != 429:
                    return False
            except httpx.HTTPError:
                pass
            if seconds is not None:
                time.sleep(seconds)
    return False


def patch(_aws: Any) -> None:
    for owner, function in (
        (models.Subscription, publish),
        (models.Subscription, get_post_data),
        (models.SNSBackend, subscribe),
        (SNSResponse, confirm_subscription),
    ):
        setattr(owner, function.__name__, function)
