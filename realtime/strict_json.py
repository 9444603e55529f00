"""The one way in for JSON from outside: what passes can be stored, indexed and sent on without surprise."""

import re
from typing import Any

import msgspec

MAX_DEPTH = 32
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1

_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)


class RefusedJSON(ValueError):
    """The text is not JSON, or JSON that we do not take; the message says which and where it can."""


def loads(text: bytes) -> Any:
    """The value of a JSON text.

    Raises RefusedJSON for malformed JSON or UTF-8, depth over 32, duplicate keys, NUL, lone surrogates, NaN,
    infinities (also 1e999) and integers beyond 64 bits. The caller has bounded the size.
    """
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedJSON(str(error)) from error
    except RecursionError as error:
        raise RefusedJSON(f"nested deeper than {MAX_DEPTH}") from error
    # The text is whole, so outside of strings each colon is one pair; a key seen twice leaves fewer entries.
    if _entries(value) != _STRINGS.sub(b"", text).count(b":"):
        raise RefusedJSON("an object has the same key twice")
    return value


def _entries(value: Any) -> int:
    """How many object entries the value holds, all levels together; refuses what must not be stored.

    Level by level: one call for each value would take seconds for 8 MiB of them.
    """
    entries, level = 0, [value]
    for depth in range(1, MAX_DEPTH + 2):
        inner: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is str:
                if "\0" in item:
                    raise RefusedJSON("a string contains NUL")
            elif kind is dict or kind is list:
                if depth > MAX_DEPTH:
                    raise RefusedJSON(f"nested deeper than {MAX_DEPTH}")
                inner += item  # Of an object, these are its keys.
                if kind is dict:
                    inner += item.values()
                    entries += len(item)
            elif kind is int and not MIN_INTEGER <= item <= MAX_INTEGER:
                raise RefusedJSON("an integer does not fit 64 bits")
        level = inner
    return entries
