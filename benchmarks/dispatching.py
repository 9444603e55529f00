"""Sends to the stub by the dispatcher and by loops of boto3, and prints figures as JSON. dispatch.py runs it."""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any

import django

django.setup()

import boto3  # noqa: E402
import msgspec  # noqa: E402
from botocore.config import Config  # noqa: E402
from django.conf import settings  # noqa: E402
from django.utils import timezone  # noqa: E402

from adapters.sealing import seal  # noqa: E402
from benchmarks.fanfare import text  # noqa: E402
from notifications.log import Draft, accept  # noqa: E402
from sessions_app import dispatching, envelopes  # noqa: E402
from sessions_app.access import key_of  # noqa: E402
from sessions_app.dispatching import Dispatcher  # noqa: E402
from sessions_app.models import BrowserSession, Dispatch  # noqa: E402

ROUNDS = 3
URL = "https://sqs.us-east-1.amazonaws.com/123456789012/bench-session-{}"

dispatching.LINGER_SECONDS = 0.0


def main(sessions: int) -> None:
    rows = [_session(number) for number in range(sessions)]
    BrowserSession.objects.bulk_create(rows, batch_size=500)
    ways: dict[str, Callable[[], float]] = {
        "boto3": partial(_boto3, rows, 1),
        "threads": partial(_boto3, rows, settings.SESSION_SENDS_AT_ONCE),
        "broadcast": partial(_dispatched, [["all"]], sessions),
        "users": partial(_dispatched, [[f"user.u{number}" for number in range(sessions)]], sessions),
    }
    figures = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):  # In turn, and the best of each: what disturbs one would count against it.
        for way, measure in ways.items():
            figures[way] = max(figures[way], measure())
    figures["sealing"] = _sealing(rows[0])
    print(json.dumps(figures))


def _session(number: int) -> BrowserSession:
    return BrowserSession(
        id=f"s{number}",
        topic=f"session.s{number}",
        user=f"u{number}",
        transport=BrowserSession.Transport.SQS,
        retention=3600,
        expires_at=timezone.now() + timedelta(hours=1),
        queue_name=f"bench-session-{number}",
        queue_url=URL.format(number),
        key=seal(msgspec.json.encode(envelopes.new_key()).decode()),
    )


def _dispatched(messages: list[list[str]], sends: int) -> float:
    """From the commit until all is marked."""
    for topics in messages:
        accept([Draft(topics, text().encode())])
    began = time.monotonic()
    while Dispatcher().run(60):
        pass
    seconds = time.monotonic() - began
    assert sum(Dispatch.objects.values_list("sent", flat=True)) == sends
    Dispatch.objects.all().delete()
    return sends / seconds


def _boto3(rows: list[BrowserSession], at_once: int) -> float:
    """What one writes without a dispatcher: queue after queue, in so many threads; nothing looks at the answers."""
    make: Any = boto3.client  # Its stubs want the service's name as a literal.
    client = make("sqs", config=Config(max_pool_connections=at_once))
    body = text()

    def send(row: BrowserSession) -> None:
        client.send_message(QueueUrl=row.queue_url, MessageBody=body)

    began = time.monotonic()
    if at_once == 1:
        for row in rows:
            send(row)
    else:
        with ThreadPoolExecutor(at_once) as threads:
            list(threads.map(send, rows))
    return len(rows) / (time.monotonic() - began)


def _sealing(row: BrowserSession) -> float:
    letter = envelopes.Letter("0" * 36, "all", 1, text().encode())
    times = 1000
    began = time.monotonic()
    for _ in range(times):
        envelopes.sealed(letter, row.pk, key_of(row))
    return (time.monotonic() - began) / times * 1e6


if __name__ == "__main__":
    main(int(sys.argv[1]))
