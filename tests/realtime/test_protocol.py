"""The wire protocol: every action and event, and that nothing a client sends is more than a ProtocolError."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime import protocol
from realtime.protocol import CloseCode, Ping, ProtocolError, Publish, Since, Subscribe, Unsubscribe

pytestmark = pytest.mark.any_database

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


def refusal(text: str) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        protocol.parse(text)
    return caught.value


# --- Actions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "action"),
    [
        ({"action": "ping"}, Ping()),
        ({"action": "ping", "ref": {"any": ["json"]}}, Ping(ref={"any": ["json"]})),
        ({"action": "subscribe", "topic": "all"}, Subscribe(topic="all")),
        (
            {"action": "subscribe", "topic": "all", "since": {"epoch": "e", "offset": 7}, "ref": 1},
            Subscribe(topic="all", since=Since("e", 7), ref=1),
        ),
        (
            {"action": "subscribe", "topic": "all", "since": {"epoch": None, "offset": 0}},
            Subscribe(topic="all", since=Since(None, 0)),
        ),
        ({"action": "unsubscribe", "topic": "all", "ref": "r"}, Unsubscribe(topic="all", ref="r")),
        ({"action": "publish", "topic": "user.bob", "data": None}, Publish(topic="user.bob", data=None)),
        ({"action": "send", "message": {"text": "Hello"}}, protocol.Send(message={"text": "Hello"})),
        ({"action": "publish", "message": None, "ref": 9}, protocol.PublishOutside(message=None, ref=9)),
        (
            {"action": "publish", "topic": "user.bob", "type": "greeting", "data": {"a": 1}, "ref": 0},
            Publish(topic="user.bob", type="greeting", data={"a": 1}, ref=0),
        ),
    ],
)
def test_a_frame_becomes_its_action(frame: dict[str, Any], action: protocol.Action) -> None:
    assert protocol.parse(json.dumps(frame)) == action


def test_the_actions_are_known_by_name() -> None:
    known = {"ping", "subscribe", "unsubscribe", "publish", "seen", "read", "unread", "archive", "ack"}
    assert known | {"send", "status", "refresh", "logout"} == protocol.ACTIONS


@pytest.mark.parametrize("frame", [{"action": "dance"}, {"action": 7}, {"action": None}, {"action": ["ping"]}, {}])
def test_an_unknown_action_is_named_so_and_the_ref_comes_back(frame: dict[str, Any]) -> None:
    error = refusal(json.dumps({**frame, "ref": "r1"}))
    assert (error.code, error.ref) == ("unknown_action", "r1")


@pytest.mark.parametrize(
    "frame",
    [
        {"action": "ping", "extra": 1},
        {"action": "subscribe"},
        {"action": "subscribe", "topic": 7},
        {"action": "subscribe", "topic": "all", "since": 7},
        {"action": "subscribe", "topic": "all", "since": {"epoch": "e"}},
        {"action": "subscribe", "topic": "all", "since": {"epoch": "e", "offset": "7"}},
        {"action": "subscribe", "topic": "all", "since": {"epoch": "e", "offset": 1.5}},
        {"action": "unsubscribe"},
        {"action": "publish", "topic": "all"},
        {"action": "publish"},
        {"action": "publish", "type": "greeting"},
        {"action": "publish", "topic": "all", "data": 1, "message": 1},
        {"action": "publish", "topic": "all", "message": 1},
        {"action": "publish", "message": 1, "type": "greeting"},
        {"action": "send"},
        {"action": "send", "message": 1, "topic": "all"},
        {"action": "publish", "topic": "all", "data": 1, "type": 7},
        {"action": "publish", "topic": "all", "data": 1, "sender": "mallory"},
    ],
)
def test_a_field_that_is_missing_unknown_or_of_the_wrong_type_is_malformed(frame: dict[str, Any]) -> None:
    error = refusal(json.dumps({**frame, "ref": 5}))
    assert (error.code, error.ref) == ("malformed", 5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "null",
        "[]",
        '"ping"',
        '{"action":"ping"',
        '{"action":"ping","action":"ping"}',
        '{"action":"ping","ref":1e999}',
        '{"action":"ping","ref":NaN}',
        '{"action":"ping","ref":18446744073709551616}',
        '{"action":"ping","ref":"\\u0000"}',
        '{"action":"ping","ref":"\\ud800"}',
        '{"action":"ping","ref":"\ud800"}',
    ],
)
def test_what_is_not_an_object_of_strict_json_is_malformed(text: str) -> None:
    assert refusal(text).code == "malformed"


@pytest.mark.parametrize("depth", [33, 1000, 20_000])
def test_a_deep_frame_is_malformed(depth: int) -> None:
    assert refusal('{"action":"ping","ref":' + "[" * depth + "]" * depth + "}").code == "malformed"


def test_a_huge_ref_comes_back_whole() -> None:
    ref = "x" * 60_000
    assert protocol.parse(json.dumps({"action": "ping", "ref": ref})).ref == ref
    assert json.loads(protocol.pong("c", ref))["ref"] == ref


@given(st.text() | JSON.map(json.dumps))
@example('{"action":"subscribe","topic":"all","since":{"epoch":"e","offset":1e400}}')
def test_no_text_makes_anything_but_an_action_or_a_protocol_error(text: str) -> None:
    with suppress(ProtocolError):
        assert isinstance(protocol.parse(text), protocol.Action)


@given(
    st.fixed_dictionaries(
        {"action": st.sampled_from(sorted(protocol.ACTIONS)) | JSON},
        optional=dict.fromkeys(("topic", "since", "data", "type", "ref", "other"), JSON),
    )
)
def test_no_object_makes_anything_but_an_action_or_a_protocol_error(frame: dict[str, Any]) -> None:
    with suppress(ProtocolError):
        assert isinstance(protocol.parse(json.dumps(frame)), protocol.Action)


# --- Events ---------------------------------------------------------------------------------------

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("body", "event"),
    [
        (
            protocol.welcome("c1", None, {"all": {"epoch": None, "offset": 0}}),
            {"event": "welcome", "connectionId": "c1", "user": None, "topics": {"all": {"epoch": None, "offset": 0}}},
        ),
        (
            protocol.message(topic="all", offset=3, id="i", type="t", data=b'{"a": 1}', created_at=NOON),
            {
                "event": "message",
                "topic": "all",
                "offset": 3,
                "id": "i",
                "type": "t",
                "data": {"a": 1},
                "created_at": "2026-01-31T12:00:00Z",
            },
        ),
        (
            protocol.message(
                topic="all",
                offset=None,
                id="i",
                type="t",
                data=b"null",
                created_at=NOON,
                expires_at=NOON,
                sender="bob",
            ),
            {
                "event": "message",
                "topic": "all",
                "offset": None,
                "id": "i",
                "type": "t",
                "data": None,
                "created_at": "2026-01-31T12:00:00Z",
                "expires_at": "2026-01-31T12:00:00Z",
                "sender": "bob",
            },
        ),
        (
            protocol.subscribed("all", "e", 3, recovered=False),
            {"event": "subscribed", "topic": "all", "epoch": "e", "offset": 3, "recovered": False},
        ),
        (
            protocol.subscribed("all", "e", 3, recovered=True, ref=0),
            {"event": "subscribed", "topic": "all", "epoch": "e", "offset": 3, "recovered": True, "ref": 0},
        ),
        (protocol.unsubscribed("all", 1), {"event": "unsubscribed", "topic": "all", "ref": 1}),
        (protocol.ok(1, id="i"), {"event": "ok", "ref": 1, "id": "i"}),
        (protocol.error("denied", "No."), {"event": "error", "code": "denied", "message": "No."}),
        (protocol.error("denied", "No.", [1]), {"event": "error", "code": "denied", "message": "No.", "ref": [1]}),
        (protocol.recalled("all", 3, "i"), {"event": "recalled", "topic": "all", "offset": 3, "id": "i"}),
        (protocol.reset("all", "e", 3), {"event": "reset", "topic": "all", "epoch": "e", "offset": 3}),
        (protocol.closed(CloseCode.RESYNC, "r"), {"event": "closed", "code": 4409, "reason": "r"}),
        (protocol.pong("c1"), {"event": "pong", "type": "pong", "statusCode": 200, "connectionId": "c1"}),
    ],
    ids=lambda value: value["event"] if isinstance(value, dict) else "",
)
def test_an_event_has_its_shape(body: bytes, event: dict[str, Any]) -> None:
    assert json.loads(body) == event
    assert b"\n" not in body  # SocketConnection and streams tell events apart by it.


@given(JSON.filter(lambda value: "NaN" not in json.dumps(value) and "Infinity" not in json.dumps(value)))
def test_data_is_never_encoded_twice(data: Any) -> None:
    encoded = json.dumps(data).encode()
    body = protocol.message(topic="all", offset=1, id="i", type="t", data=encoded, created_at=NOON)
    assert encoded in body


def test_close_codes_below_4500_mean_come_back() -> None:
    permanent = {CloseCode.BAD_FRAMES, CloseCode.UNAUTHENTICATED, CloseCode.REVOKED, CloseCode.KICKED}
    assert {code for code in CloseCode if code >= 4500} == permanent
