"""Sessions with queues outside, as their browsers see them."""

import base64
import itertools
import json
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from sessions_app import access, sessions, shapes
from sessions_app.models import BrowserSession
from tests.emulators.aws import Aws

ROLE = "browser-sessions"
ACCOUNT = "123456789012"
ROLE_ARN = f"arn:aws:iam::{ACCOUNT}:role/{ROLE}"
SERVICE_RIGHTS = [
    "sqs:CreateQueue",
    "sqs:DeleteQueue",
    "sqs:GetQueueAttributes",
    "sqs:ListQueues",
    "sqs:SendMessage",
    "sqs:SetQueueAttributes",
    "sts:AssumeRole",
]
ROLE_RIGHTS = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]

_numbers = itertools.count()


def policy(actions: list[str], **more: Any) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, **more}]})


def employ(aws: Aws) -> dict[str, str]:
    """A role for browsers and a user for the service, with the rights that they need -> that user's environment."""
    iam = aws.client("iam")
    trust = policy(["sts:AssumeRole"], Principal={"AWS": f"arn:aws:iam::{ACCOUNT}:user/fanfare"})
    iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=trust)
    queues = f"arn:aws:sqs:us-east-1:{ACCOUNT}:fanfare-dev-session-*"
    iam.put_role_policy(RoleName=ROLE, PolicyName="p", PolicyDocument=policy(ROLE_RIGHTS, Resource=queues))
    iam.create_user(UserName="fanfare")
    iam.put_user_policy(UserName="fanfare", PolicyName="p", PolicyDocument=policy(SERVICE_RIGHTS, Resource="*"))
    key = iam.create_access_key(UserName="fanfare")["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


class Browser:
    """What holds a session's queue: it knows what the server has shown, and nothing else."""

    def __init__(self, aws: Aws, session: str, url: str, credentials: shapes.Credentials, key: shapes.Key) -> None:
        self.session, self.url = session, url
        self.keys = {key.id: base64.b64decode(key.value)}
        self.sqs = aws.client(
            "sqs",
            aws_access_key_id=credentials.access_key_id,
            aws_secret_access_key=credentials.secret_access_key,
            aws_session_token=credentials.session_token,
        )

    def envelopes(self) -> list[dict[str, Any]]:
        """All that lies in its queue; afterwards it is empty."""
        found = []
        while messages := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            found += [json.loads(message["Body"]) for message in messages]
            entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(messages)]
            self.sqs.delete_message_batch(QueueUrl=self.url, Entries=entries)
        return found

    def open(self, envelope: dict[str, Any]) -> Any:
        """Raises InvalidTag for what is not as it was sealed for this session."""
        return json.loads(opened(self.keys[envelope["key"]], self.session, envelope))

    def received(self) -> list[Any]:
        """What is in its queue, opened."""
        return [self.open(envelope) for envelope in self.envelopes()]

    def ids(self) -> list[str]:
        """The ids of the messages in its queue, sorted."""
        return sorted(event["id"] for event in self.received())


def opened(key: bytes, session: str, envelope: dict[str, Any]) -> bytes:
    offset = "" if envelope["offset"] is None else str(envelope["offset"])
    about = "\n".join([envelope["topic"], offset, session, envelope["key"], envelope["messageId"]])
    nonce, data = (base64.b64decode(envelope[name]) for name in ("nonce", "data"))
    return AESGCM(key).decrypt(nonce, data, about.encode())


def open_browser(aws: Aws, user: str = "alice", account: str = "acme", id: str | None = None) -> Browser:
    session, _new = sessions.open_session(
        id or f"q{next(_numbers)}", user, account, BrowserSession.Transport.SQS, 3600, "", ""
    )
    given = access.give(session)
    assert given
    return Browser(aws, session.pk, session.queue_url, given.credentials, given.key)
