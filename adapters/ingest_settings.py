"""INGEST_SOURCES: where records come from. Read strictly: what is half right here lets the wrong senders in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from accounts import signatures

SECRET_LEAST = 32  # Characters behind the prefix, as `openssl rand -base64 24` makes them.

CONSUMED = ("queue", "stream", "momento")  # Fields of places that `manage.py consume` reads from.
SHORTCUTS = {  # Setting -> the name of the source that it makes, and the field that its value is.
    "NOTIFICATIONS_QUEUE_URL": ("notifications-queue", "queue"),
    "NOTIFICATIONS_TOPIC_ARN": ("notifications-topic", "sns"),
}


class MomentoTopic(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cache: str
    topic: str


@dataclass(frozen=True, slots=True)
class Source:
    """One who hands in records, all of one kind: one of INGEST_HANDLERS.

    `secrets`: a call has to be signed with one of them; without any, nobody can call. `broadcasts`: its records may
    be for everyone. `batch`: each call brings a list of records, not one.

    Records also come from one place at most: a `queue` (of SQS, its URL), a `stream` (of Kinesis, its name or ARN), a
    topic that calls us (`sns`, its ARN) or a topic of `momento`. `envelope`: what is taken off a record of a queue or
    a topic of SNS; None takes off each envelope that is there. `start`: where a stream is read from at first.
    """

    name: str
    kind: str
    secrets: tuple[str, ...] = field(default=(), repr=False)
    broadcasts: bool = False
    batch: bool = False
    queue: str = ""
    stream: str = ""
    sns: str = ""
    momento: MomentoTopic | None = None
    envelope: Literal["sns", "eventbridge", "none"] | None = None
    start: Literal["oldest", "newest"] = "oldest"

    @property
    def consumed(self) -> str:
        """Which of CONSUMED it is read from; empty for one that calls."""
        return next((field for field in CONSUMED if getattr(self, field)), "")


EVENTS = Source("api.events", "eventbridge", broadcasts=True)  # Those of `POST /api/events`; no name of others.


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object of INGEST_SOURCES, as it is written."""

    kind: str
    secrets: tuple[str, ...] = ()
    broadcasts: bool = False
    batch: bool = False
    queue: str = ""
    stream: str = ""
    sns: str = ""
    momento: MomentoTopic | None = None
    envelope: Literal["sns", "eventbridge", "none"] | None = None
    start: Literal["oldest", "newest"] = "oldest"


def sources() -> Mapping[str, Source]:
    """Those of the settings, by name. Raises ImproperlyConfigured."""
    return _read_once(msgspec.json.encode(written()))


def written() -> Any:
    """INGEST_SOURCES, and what the shortcuts stand for. Raises ImproperlyConfigured where both have the same name."""
    own = settings.INGEST_SOURCES
    short = {
        name: {"kind": "sumu", "broadcasts": True, place: value}
        for setting, (name, place) in SHORTCUTS.items()
        if (value := getattr(settings, setting))
    }
    if not isinstance(own, dict):
        return own
    for name in short.keys() & own.keys():
        raise ImproperlyConfigured(f"INGEST_SOURCES, {name!r}: a shortcut makes one of that name: choose another.")
    return own | short


@lru_cache(maxsize=8)
def _read_once(text: bytes) -> Mapping[str, Source]:
    return read(msgspec.json.decode(text))


def read(value: Any) -> dict[str, Source]:
    """The sources by name. Raises ImproperlyConfigured, which says where and what, and shows no secret."""
    if not isinstance(value, dict):
        raise ImproperlyConfigured("INGEST_SOURCES is a JSON object: sources by their names.")
    found: dict[str, Source] = {}
    for name, item in value.items():
        try:
            found[name] = _source(name, msgspec.convert(item, Entry, strict=True))
        except ValueError as error:  # msgspec's are some too.
            raise ImproperlyConfigured(f"INGEST_SOURCES, {name[:100]!r}: {error}") from None
    return found


def _source(name: str, entry: Entry) -> Source:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise ValueError("a name has 1-100 letters, digits, - and _.")
    if entry.kind not in settings.INGEST_HANDLERS:
        raise ValueError(f"kind is one of {', '.join(settings.INGEST_HANDLERS)}.")
    for number, secret in enumerate(entry.secrets):
        _check_secret(secret, f"secrets[{number}]")
    _check_place(entry)
    return Source(name, **msgspec.structs.asdict(entry))


def _check_secret(secret: str, at: str) -> None:
    if len(secret.removeprefix(signatures.PREFIX)) < SECRET_LEAST:
        raise ValueError(f"{at} has to be {SECRET_LEAST} characters long or longer, and random.")
    try:
        signatures.sign(secret, "", 0, b"")
    except ValueError:
        raise ValueError(f"{at} is not base64 behind {signatures.PREFIX}.") from None


def _check_place(entry: Entry) -> None:
    places = [place for place in (*CONSUMED, "sns") if getattr(entry, place)]
    if len(places) > 1:
        raise ValueError(f"{' and '.join(places)} are two sources: write one for each.")
    if entry.queue and not re.fullmatch(r"https?://[!-~]+/[!-~]+", entry.queue):
        raise ValueError("queue is the URL of an SQS queue: https://sqs.<region>.amazonaws.com/<account>/<name>.")
    if entry.stream and not re.fullmatch(r"(arn:[a-z-]+:kinesis:[!-~]+:stream/)?[A-Za-z0-9_.-]{1,128}", entry.stream):
        raise ValueError("stream is the name or the ARN of a Kinesis stream.")
    if entry.sns and not re.fullmatch(r"arn:[a-z-]+:sns:[a-z0-9-]+:[0-9]+:[A-Za-z0-9_.-]+", entry.sns):
        raise ValueError("sns is the ARN of a topic: arn:aws:sns:<region>:<account>:<name>.")
    if entry.momento and not (entry.momento.cache and entry.momento.topic):
        raise ValueError("momento is an object with the names of cache and topic.")
    if entry.envelope and not (entry.queue or entry.stream or entry.sns):
        raise ValueError("envelope goes with queue, stream or sns only.")
    if entry.start != "oldest" and not entry.stream:
        raise ValueError("start goes with stream only.")
