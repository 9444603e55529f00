"""The one way in for JSON: what is allowed comes through unchanged, all else is refused, and neither takes long."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from realtime.strict_json import MAX_DEPTH, MAX_INTEGER, MIN_INTEGER, RefusedJSON, loads

pytestmark = pytest.mark.any_database

MIB = 1024 * 1024
PATIENCE = 30.0  # Seconds, for 8 MiB on a busy machine; what is quadratic takes hours.

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(MIN_INTEGER, MAX_INTEGER),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5))


def depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]", inmost: bytes = b"") -> bytes:
    return opening * levels + inmost + closing * levels


@given(values, st.booleans(), st.sampled_from([None, 1]))
def test_every_value_that_is_allowed_comes_through_unchanged(value: Any, escaped: bool, indent: int | None) -> None:
    assume(depth(value) <= MAX_DEPTH)
    assert loads(json.dumps(value, ensure_ascii=escaped, indent=indent).encode()) == value


@given(st.binary(max_size=40) | st.text('[]{}:,"\\0123456789eE+-. \ntrufalsn', max_size=40).map(str.encode))
def test_any_bytes_are_a_value_or_refused_and_nothing_else(text: bytes) -> None:
    try:
        value = loads(text)
    except RefusedJSON:
        return
    assert json.loads(text) == value


@given(st.dictionaries(texts, values, min_size=1, max_size=4), values, st.booleans())
def test_a_repeated_key_is_refused_wherever_it_stands_and_however_it_is_written(
    value: dict[str, Any], again: Any, escaped: bool
) -> None:
    assume(depth(value) < MAX_DEPTH and depth(again) < MAX_DEPTH - 1)
    key = next(iter(value))
    written = "".join(f"\\u{ord(c):04x}" for c in key) if escaped and key.isascii() else json.dumps(key)[1:-1]
    text = json.dumps(value)[:-1] + f', "{written}": {json.dumps(again)}}}'
    for whole in (text, f"[{text}]", f'{{"outer": {text}}}'):
        with pytest.raises(RefusedJSON, match="twice"):
            loads(whole.encode())


@given(values)
def test_colons_and_quotes_inside_of_strings_are_no_keys(value: Any) -> None:
    assume(depth(value) < MAX_DEPTH)
    text = json.dumps({"text": json.dumps(value), ':"a":': '\\":"\\'})
    assert loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{"a": 1, "a": 1}', id="duplicate key"),
        pytest.param(b'{"a": {"b": 1}, "a": 2}', id="duplicate key that hides an object"),
        pytest.param(b'{"a": 1, "\\u0061": 2}', id="duplicate key in two spellings"),
        pytest.param(b'"\\u0000"', id="NUL"),
        pytest.param(b'{"\\u0000": 1}', id="NUL in a key"),
        pytest.param(b'"\x00"', id="NUL, raw"),
        pytest.param(b'"\\ud800"', id="lone high surrogate"),
        pytest.param(b'"\\udc00"', id="lone low surrogate"),
        pytest.param(b'"\\ud800\\ud800"', id="two high surrogates"),
        pytest.param(b'"\\ud800 and more text"', id="high surrogate, then text"),
        pytest.param(b'{"\\udfff": 1}', id="lone surrogate in a key"),
        pytest.param(b'"\xed\xa0\x80"', id="surrogate as UTF-8"),
        pytest.param(b"NaN", id="NaN"),
        pytest.param(b"[Infinity]", id="infinity"),
        pytest.param(b"-Infinity", id="negative infinity"),
        pytest.param(b"1e999", id="a number that is infinite"),
        pytest.param(b'{"a": -1e999}', id="a number that is infinite below"),
        pytest.param(str(MAX_INTEGER + 1).encode(), id="integer above 64 bits"),
        pytest.param(str(MIN_INTEGER - 1).encode(), id="integer below 64 bits"),
        pytest.param(b"1" + b"0" * 5000, id="integer with 5000 digits"),
        pytest.param(b'"\xff"', id="invalid UTF-8"),
        pytest.param(b'"\xc0\x80"', id="overlong UTF-8"),
        pytest.param(b"\xef\xbb\xbf1", id="byte order mark"),
        pytest.param('{"a": 1}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"  ", id="white space"),
        pytest.param(b"{} {}", id="two values"),
        pytest.param(b"{", id="half an object"),
        pytest.param(b'{"a"}', id="key without value"),
        pytest.param(b"[1,]", id="comma at the end"),
        pytest.param(b"01", id="leading zero"),
        pytest.param(b"{'a': 1}", id="single quotes"),
        pytest.param(b"[1] // why", id="comment"),
        pytest.param(b'"a\nb"', id="raw line feed in a string"),
        pytest.param(nested(MAX_DEPTH + 1), id="33 lists"),
        pytest.param(nested(MAX_DEPTH + 1, b'{"a":', b"}", b"1"), id="33 objects"),
        pytest.param(nested(5000), id="5000 lists"),
    ],
)
def test_what_is_not_taken_is_refused_with_a_reason(text: bytes) -> None:
    with pytest.raises(RefusedJSON) as refused:
        loads(text)
    assert str(refused.value)


def test_what_is_just_allowed_is_taken() -> None:
    assert depth(loads(nested(MAX_DEPTH))) == MAX_DEPTH
    assert loads(nested(MAX_DEPTH, b'{"a":', b"}", b"1"))
    assert loads(str(MAX_INTEGER).encode()) == MAX_INTEGER
    assert loads(str(MIN_INTEGER).encode()) == MIN_INTEGER
    assert loads(b'"\\ud83d\\ude00"') == "\U0001f600"
    assert loads(b"1.7976931348623157e308") == 1.7976931348623157e308


SHAPES: dict[str, Callable[[int], bytes]] = {
    "numbers": lambda size: b"[" + b"1," * (size // 2 - 2) + b"1]",
    "empty lists": lambda size: b"[" + b"[]," * (size // 3 - 2) + b"[]]",
    "deep lists": lambda size: b"[" * size,
    "deep objects": lambda size: b'{"a":' * (size // 5),
    "short strings": lambda size: b"[" + b'"",' * (size // 3 - 2) + b'""]',
    "keys": lambda size: b"{" + b",".join(b'"%06x":1' % n for n in range(size // 11)) + b"}",
    "the same key": lambda size: b"{" + b",".join([b'"a":1'] * (size // 6)) + b"}",
    "one string of escaped quotes": lambda size: b'"' + b'\\"' * (size // 2 - 1) + b'"',
    "one string of backslashes": lambda size: b'"' + b"\\\\" * (size // 2 - 1) + b'"',
    "a string that does not end": lambda size: b'"' + b'\\"' * (size // 2),
    "quotes": lambda size: b'"' * size,
    "one string of colons": lambda size: b'"' + b":" * (size - 2) + b'"',
    "digits": lambda size: b"1" * size,
    "decimals": lambda size: b"0." + b"1" * size,
    "exponent": lambda size: b"1e" + b"0" * size,
    "white space": lambda size: b" " * size,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [64 * 1024, 8 * MIB], ids=["64 KiB", "8 MiB"])
def test_no_shape_of_text_takes_long(shape: str, size: int) -> None:
    text = SHAPES[shape](size)
    before = time.process_time()
    with suppress(RefusedJSON):
        loads(text)
    assert time.process_time() - before < max(1.0, PATIENCE * size / (8 * MIB))
