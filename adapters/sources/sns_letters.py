"""What SNS posts to an endpoint, and whether it is really from there: its signature, as AWS documents it."""

import asyncio
import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

import httpcore
import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from django.conf import settings
from django.utils import timezone

from adapters import guarded
from adapters.base import Misconfigured

OLD = timedelta(hours=1, minutes=5)  # SNS tries for an hour, and says each time when the message was published.
EARLY = timedelta(minutes=5)
REPLY_MAX_BYTES = 64 * 1024
SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
SIGNED["UnsubscribeConfirmation"] = SIGNED["SubscriptionConfirmation"]
HASHES = {"1": SHA1, "2": SHA256}


class Letter(msgspec.Struct, rename="pascal"):
    """What SNS posts. Not all of it is signed: attributes, for one, anybody could have added."""

    type: Literal["Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation"]
    message_id: str
    topic_arn: str
    message: str
    timestamp: datetime
    signature: str
    signature_version: str
    signing_cert_url: str = msgspec.field(name="SigningCertURL")
    subscribe_url: str = msgspec.field(name="SubscribeURL", default="")


class Unreachable(Exception):
    """An address of AWS does not answer as it should."""


def mistake(letter: Letter, body: bytes, topic: str) -> str:
    """Why the letter is not to be believed to be from this topic; empty if it is. Raises Unreachable."""
    if letter.topic_arn != topic:
        return "TopicArn is not the topic of this source (sns, in INGEST_SOURCES)"
    if letter.timestamp.tzinfo is None or not -EARLY < timezone.now() - letter.timestamp < OLD:
        return "Timestamp is more than an hour off"
    if letter.signature_version not in HASHES:
        return "SignatureVersion is neither 1 nor 2"
    if not _is_certificate_of_sns(letter.signing_cert_url, topic):
        return "SigningCertURL does not lead to a certificate of SNS"
    certificate = _certificate(letter.signing_cert_url)
    if not certificate.not_valid_before_utc <= datetime.now(UTC) <= certificate.not_valid_after_utc:
        return "the certificate is not valid now"
    return "" if _is_signed(letter, body, certificate) else "the signature is wrong"


def is_of_sns(url: str, topic: str) -> bool:
    """Whether a URL leads to SNS in the topic's region."""
    _, partition, _, region, *_ = topic.split(":")
    sns = f"sns.{region}.amazonaws.com" + (".cn" if partition == "aws-cn" else "")
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return (parts.scheme, parts.netloc) == ("https", sns)


def _is_certificate_of_sns(url: str, topic: str) -> bool:
    """Only what SNS itself has put there: its API has answers in which anybody can have a certificate of their own."""
    path = url.partition("//")[2].partition("/")[2]
    return is_of_sns(url, topic) and re.fullmatch(r"SimpleNotificationService-[A-Za-z0-9]+\.pem", path) is not None


def get(url: str) -> bytes:
    """Raises Unreachable."""
    try:
        return asyncio.run(_get(url))
    except (Misconfigured, TimeoutError, OSError, httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from error


async def _get(url: str) -> bytes:
    address = guarded.parse(url)
    target = httpcore.URL(scheme=address.scheme, host=address.host, port=address.port, target=address.target)
    connections = guarded.Connections(address)
    content = b""
    try:
        async with (
            asyncio.timeout(settings.DELIVERY_TIMEOUT),
            connections.one() as connection,
            connection.stream("GET", target, headers=[("host", address.authority)]) as response,
        ):
            async for chunk in response.aiter_stream():
                content += chunk
                if len(content) > REPLY_MAX_BYTES:
                    raise OSError("the answer is too large")
    finally:
        await connections.close()
    if response.status != 200:
        raise OSError(f"status {response.status}")
    return content


@lru_cache(maxsize=8)
def _certificate(url: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(get(url))
    except ValueError as error:
        raise Unreachable(f"{url} is no certificate") from error


def _is_signed(letter: Letter, body: bytes, certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey) or not re.fullmatch(r"[A-Za-z0-9+/]+=*", letter.signature):
        return False
    values = msgspec.json.decode(body)
    lines = [f"{name}\n{values[name]}\n" for name in SIGNED[letter.type] if isinstance(values.get(name), str)]
    try:
        signature = base64.b64decode(letter.signature)
        key.verify(signature, "".join(lines).encode(), PKCS1v15(), HASHES[letter.signature_version]())
    except (InvalidSignature, binascii.Error):
        return False
    return True
