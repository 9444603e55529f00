"""INGEST_SOURCES: who may hand in records. Read strictly: what is half right here lets the wrong senders in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from accounts import signatures

SECRET_LEAST = 32  # Characters behind the prefix, as `openssl rand -base64 24` makes them.


@dataclass(frozen=True, slots=True)
class Source:
    """One who hands in records, all of one kind: one of INGEST_HANDLERS.

    `secrets`: a call has to be signed with one of them; without any, nobody can call. `broadcasts`: its records may
    be for everyone. `batch`: each call brings a list of records, not one.
    """

    name: str
    kind: str
    secrets: tuple[str, ...] = field(default=(), repr=False)
    broadcasts: bool = False
    batch: bool = False


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object of INGEST_SOURCES, as it is written."""

    kind: str
    secrets: tuple[str, ...] = ()
    broadcasts: bool = False
    batch: bool = False


def sources() -> Mapping[str, Source]:
    """Those of the settings, by name. Raises ImproperlyConfigured."""
    return _read_once(msgspec.json.encode(settings.INGEST_SOURCES))


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
    return Source(name, entry.kind, entry.secrets, entry.broadcasts, entry.batch)


def _check_secret(secret: str, at: str) -> None:
    if len(secret.removeprefix(signatures.PREFIX)) < SECRET_LEAST:
        raise ValueError(f"{at} has to be {SECRET_LEAST} characters long or longer, and random.")
    try:
        signatures.sign(secret, "", 0, b"")
    except ValueError:
        raise ValueError(f"{at} is not base64 behind {signatures.PREFIX}.") from None
