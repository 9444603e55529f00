"""Envelopes open for whom and what they were sealed for, and for nothing else."""

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from sessions_app import envelopes
from sessions_app.envelopes import Letter
from tests.sessions_app.outside import opened

pytestmark = pytest.mark.any_database

LETTER = Letter("0197", "user.alice", 7, b'{"event":"message"}')
KEY = envelopes.new_key()
BYTES = base64.b64decode(KEY.value)


def sealed(letter: Letter = LETTER, session: str = "tab-1") -> dict[str, Any]:
    return dict(json.loads(envelopes.sealed(letter, session, KEY)))


@given(st.binary(max_size=500), st.text(min_size=1, max_size=50), st.none() | st.integers(1, 2**62))
def test_what_was_sealed_opens(body: bytes, session: str, offset: int | None) -> None:
    envelope = sealed(replace(LETTER, body=body, offset=offset), session)
    assert opened(BYTES, session, envelope) == body
    assert {name: envelope[name] for name in ("v", "messageId", "topic", "offset", "key")} == {
        "v": 1,
        "messageId": LETTER.id,
        "topic": LETTER.topic,
        "offset": offset,
        "key": KEY.id,
    }


def test_no_two_are_the_same() -> None:
    some = [sealed() for _ in range(100)]
    assert len({envelope["nonce"] for envelope in some}) == len({envelope["data"] for envelope in some}) == 100
    assert {len(base64.b64decode(envelope["nonce"])) for envelope in some} == {12}


@given(st.data())
def test_a_flipped_bit_is_refused(data: st.DataObject) -> None:
    envelope = sealed()
    name = data.draw(st.sampled_from(["nonce", "data"]))
    flipped = bytearray(base64.b64decode(envelope[name]))
    bit = data.draw(st.integers(0, len(flipped) * 8 - 1))
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidTag):
        opened(BYTES, "tab-1", envelope | {name: base64.b64encode(flipped).decode()})


@pytest.mark.parametrize(
    "changed", [{"topic": "user.bob"}, {"offset": 8}, {"offset": None}, {"messageId": "0198"}, {"key": "other"}]
)
def test_a_message_that_was_moved_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidTag):
        opened(BYTES, "tab-1", sealed() | changed)


def test_a_message_of_another_session_is_refused_even_with_its_key() -> None:
    with pytest.raises(InvalidTag):
        opened(BYTES, "tab-2", sealed())
