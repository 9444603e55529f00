"""Frames: what we build by hand, a WebSocket library has to be able to read."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from realtime.frames import Event, bare_bodies, stream_blocks, websocket_frames, websocket_texts

pytestmark = pytest.mark.any_database


def read_as_client(data: bytes) -> list[Frame]:
    """The frames that a client of the `websockets` library finds in what the server wrote."""
    client = ClientProtocol(parse_uri("ws://localhost/"), state=OPEN, max_size=None)
    client.receive_data(data)
    events = client.events_received()
    assert client.parser_exc is None
    assert all(isinstance(event, Frame) for event in events)
    return [event for event in events if isinstance(event, Frame)]


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 70_000])
def test_a_client_reads_a_frame_of_every_kind_of_length(length: int) -> None:
    body = b"x" * length
    (frame,) = read_as_client(websocket_frames([body]))
    assert (frame.opcode, frame.fin, frame.data) == (Opcode.TEXT, True, body)


@given(st.lists(st.text(max_size=300).map(str.encode), max_size=10))
def test_a_client_reads_many_frames_from_one_write(bodies: list[bytes]) -> None:
    assert [bytes(frame.data) for frame in read_as_client(websocket_frames(bodies))] == bodies


def test_texts_are_told_apart_by_a_line_feed_that_json_never_holds() -> None:
    bodies = [b'{"a":"one\\ntwo"}', b"{}"]
    assert websocket_texts(bodies).split(b"\n") == bodies


def test_a_stream_block_is_one_line_of_data() -> None:
    assert stream_blocks([b"{}", b"[]"]) == b"data: {}\n\ndata: []\n\n"


def test_a_poll_gets_the_bodies_as_they_are() -> None:
    bodies: Sequence[bytes] = [b"{}", b"[]"]
    assert list(bare_bodies(bodies)) == bodies


@given(
    st.builds(
        Event,
        topic=st.just("all"),
        body=st.binary(),
        epoch=st.none() | st.text(),
        offset=st.none() | st.integers(0, 2**63),
        exclude=st.frozensets(st.text()),
        recalls=st.none() | st.integers(0, 2**63),
        expires_at=st.none() | st.floats(0, 1e10),
        published_at=st.floats(0, 1e10),
    )
)
def test_an_event_is_the_same_after_its_way_over_the_bus(event: Event) -> None:
    assert Event.unpack("all", event.pack()) == event
