"""A topic's log as Momento's clients read it: items with sequence numbers, and a discontinuity wherever some lack.

The number of an item is its message's offset. The page stands for the topic's epoch: with another one, numbers begin
anew.
"""

import base64
import binascii
import hashlib
from typing import Any

import msgspec

from accounts.errors import ApiError
from accounts.requests import wrong
from notifications import history
from notifications.event_shapes import Discontinuity, Element, Item, ItemValue

ITEMS_AT_ONCE = 100


def data_of(body: bytes, content_type: str) -> Any:
    """A message's data, of a body: a text as it is, bytes as `{"base64": …}`. Raises ApiError 400, 415."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/octet-stream":
        return {"base64": base64.b64encode(body).decode()}
    if not (kind.startswith("text/") or kind == "application/json"):
        raise ApiError(415, "unsupported_media_type", "Send text/plain, or application/octet-stream for bytes.")
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise wrong("body", "UTF-8 without NUL: send bytes as application/octet-stream")
    return text


def value_of(data: bytes) -> ItemValue:
    """A message's data as an item shows it: `{text}`, or `{binary}` in base64. Other JSON is shown as its text."""
    value = msgspec.json.decode(data)
    if isinstance(value, str):
        return ItemValue(text=value)
    if isinstance(value, dict) and value.keys() == {"base64"} and _is_base64(value["base64"]):
        return ItemValue(binary=value["base64"])
    return ItemValue(text=data.decode())


def _is_base64(value: Any) -> bool:
    try:
        return isinstance(value, str) and base64.b64decode(value, validate=True) is not None
    except (binascii.Error, ValueError):
        return False


def page_of(epoch: str | None) -> int:
    """The number by which an epoch is known: below 2^48, and 0 before there is one."""
    return 0 if epoch is None else 1 + int.from_bytes(hashlib.sha256(epoch.encode()).digest()[:6]) % (2**48 - 1)


def read(topic: str, number: int, page: int, reader: str | None) -> list[Element]:
    """What a topic holds from a number on, ITEMS_AT_ONCE at most -> items and discontinuities, in order.

    From 0: the oldest that is kept comes first. Else each number that lacks is part of a discontinuity; after one
    because of another page comes all that is kept. Whoever goes on with the number after the last one misses nothing
    without being told.
    """
    found = history.topic_page(topic, max(number - 1, 0), ITEMS_AT_ONCE, reader)
    broken = number > 0 and (page != page_of(found["epoch"]) or number > found["head"] + 1)
    if broken:
        found = history.topic_page(topic, 0, ITEMS_AT_ONCE, reader)
    messages, now = found["messages"], page_of(found["epoch"])
    last = number - 1
    elements: list[Element] = []
    for message in messages:
        offset = message["offset"]
        if last >= 0 and (broken or offset != last + 1):
            elements.append(_discontinuity(last, offset, now))
        elements.append(Element(item=Item(offset, now, value_of(bytes(message["data"])))))
        last, broken = offset, False
    through = last if len(messages) == ITEMS_AT_ONCE else found["head"]
    if last >= 0 and (broken or through > last):
        elements.append(_discontinuity(last, through, now))
    return elements


def _discontinuity(last: int, new: int, page: int) -> Element:
    return Element(discontinuity=Discontinuity(last, new, page))
