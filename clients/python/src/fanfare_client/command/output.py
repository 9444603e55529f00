"""What the command prints: lines for people, or one JSON object a line for programs."""

import json
import re
import sys
from dataclasses import is_dataclass
from datetime import datetime
from typing import Any

import msgspec


class Output:
    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def show(self, value: Any, *columns: Any) -> None:
        """`value` for programs, `columns` for people."""
        line = _json(value) if self._as_json else "  ".join(_text(column) for column in columns if column is not None)
        print(line, flush=True)

    def event(self, event: Any, *columns: Any) -> None:
        """One of what a listener gets; for programs it says of which kind it is."""
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__.removesuffix("Event")).lower()
        self.show({"event": kind} | msgspec.to_builtins(event), *columns)

    def note(self, text: str) -> None:
        """For people only, beside what is printed."""
        if not self._as_json:
            print(printable(text), file=sys.stderr, flush=True)


def _json(value: Any) -> str:
    text = msgspec.json.encode(msgspec.to_builtins(value) if is_dataclass(value) else value).decode()
    # Also a program's output may end on a terminal.
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return printable(value if isinstance(value, str) else _json(value))


def printable(text: str) -> str:
    """What others wrote must not steer the terminal."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
