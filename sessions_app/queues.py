"""Queues of SQS, one for each session that has one, and who may read them. All of it blocks."""

import json
import logging
import secrets
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings

from adapters.aws import clients
from sessions_app import shapes

logger = logging.getLogger(__name__)

NAME_MAX = 80  # As SQS has it.
CREDENTIALS_SECONDS = 3600  # More, AWS gives to no role that has itself assumed one.
RIGHTS = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"]  # Batches are covered.
AT_ONCE = 8
PAGE = 1000
YOUNG_SECONDS = 60


def prefix() -> str:
    return f"{settings.SERVICE}-{settings.STAGE}-session-"


def new_name() -> str:
    """One that nobody can guess."""
    return f"{prefix()}{secrets.token_urlsafe(32)}"[:NAME_MAX]


def make(name: str, retention: int) -> str:
    """-> its URL, also where it is there already. Raises what the SDK raises, as all here."""
    made = _sqs().create_queue(QueueName=name, Attributes={"MessageRetentionPeriod": str(retention)})
    return str(made["QueueUrl"])


def keep(url: str, retention: int) -> bool:
    """Messages wait in it for so long -> whether it is there."""
    try:
        _sqs().set_queue_attributes(QueueUrl=url, Attributes={"MessageRetentionPeriod": str(retention)})
    except Exception as error:
        if clients.is_missing(error):
            return False
        raise
    return True


def credentials(url: str) -> shapes.Credentials:
    """With which one can receive from this queue and delete what was received, and nothing else."""
    region: str = _sqs().meta.region_name
    account, name = url.split("/")[-2:]
    partition = settings.SESSION_ROLE_ARN.split(":")[1]
    allowed = {"Effect": "Allow", "Action": RIGHTS, "Resource": f"arn:{partition}:sqs:{region}:{account}:{name}"}
    given = clients.client("sts").assume_role(
        RoleArn=settings.SESSION_ROLE_ARN,
        RoleSessionName=f"{settings.SERVICE}-session"[:64],
        DurationSeconds=CREDENTIALS_SECONDS,
        Policy=json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
    )["Credentials"]
    return shapes.Credentials(
        given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"], given["Expiration"], region
    )


def delete(urls: Collection[str]) -> int:
    """-> how many are gone now; the others stay until `forgotten` finds them."""
    if not urls:
        return 0
    with ThreadPoolExecutor(min(AT_ONCE, len(urls)), thread_name_prefix="queues") as threads:
        return sum(threads.map(_delete, urls))


def listed() -> Iterator[list[str]]:
    """The URLs of all queues that are ours by their name, page by page."""
    for page in (
        _sqs().get_paginator("list_queues").paginate(QueueNamePrefix=prefix(), PaginationConfig={"PageSize": PAGE})
    ):
        yield page.get("QueueUrls", [])


def is_young(url: str) -> bool:
    """Whether it was made in the last minute; one that is gone is young enough."""
    try:
        found = _sqs().get_queue_attributes(QueueUrl=url, AttributeNames=["CreatedTimestamp"])
    except Exception as error:
        if clients.is_missing(error):
            return True
        raise
    return time.time() - float(found["Attributes"]["CreatedTimestamp"]) < YOUNG_SECONDS


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def _delete(url: str) -> bool:
    try:
        _sqs().delete_queue(QueueUrl=url)
    except Exception as error:
        if not clients.is_missing(error):
            outcome = clients.failure(error, f"sqs:DeleteQueue on {prefix()}*")
            logger.warning("A session's queue cannot be deleted: %s", outcome.error)
            return False
    return True


def _sqs() -> Any:
    return clients.client("sqs")
