"""RFC 6455, by the cases of Autobahn's test suite (which `kosoku` runs) and by some that it lacks.

Against an echo behind the product's protocol classes: what is above them speaks JSON, not WebSocket.
"""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.realtime.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Raw, frame, request, upgrade
from tests.servers import ROOT, eventually, free_port

pytestmark = pytest.mark.any_database

FRAME_MAX_BYTES = 65536
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3 for the key that `upgrade` sends.

# Left out: 12 and 13 are compression, which is off; most of 9 sends more than FRAME_MAX_BYTES; for 7.1.5 see below.
SECTIONS = {
    "1": ("§5.6, §5.2: texts and binaries of every form of length", 16),
    "2": ("§5.5.2, §5.5.3: pings are answered with what they carried, unasked pongs are not", 11),
    "3": ("§5.2: reserved bits end the connection", 7),
    "4": ("§5.2, §11.8: reserved opcodes end the connection", 10),
    "5": ("§5.4: fragments, with control frames in between", 20),
    "6": ("§8.1: text is UTF-8, also across fragments, or the connection ends with 1007", 145),
    "7": ("§5.5.1, §7.4: closing, by every code that is and is not allowed", 36),
    "9": ("§10.4: a frame as long as the limit; §5.6: a thousand messages one after the other", 14),
    "10": ("§5.4: a message in fragments of the sender's choice", 1),
}
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.1", "9.2.1", "9.7.*", "9.8.*", "10.*"]
ACCEPTABLE = {"OK", "NON-STRICT", "INFORMATIONAL"}  # As Autobahn has it: the last two diverge from no MUST.


class Echo:
    def __init__(self, folder: Path, *options: str) -> None:
        self.log = folder / "echo.log"
        self.port = free_port()
        command = [sys.executable, "-m", "uvicorn", "tests.realtime.echo:application", "--port", str(self.port)]
        command += ["--ws", "realtime.uvicorn_protocol:FrameProtocol", "--no-access-log"]
        command += ["--http", "realtime.uvicorn_protocol:PromptHttpProtocol"]
        command += ["--ws-max-size", str(FRAME_MAX_BYTES), "--ws-per-message-deflate", "false"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *options], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        eventually(self._listens, 40, self.log.read_text)

    def connect(self, path: str = "/") -> Raw:
        """A socket after a good handshake."""
        raw = Raw(self.port)
        raw.send(upgrade(path))
        status, headers = raw.head()
        assert (status, headers["sec-websocket-accept"]) == (101, ACCEPT)
        return raw

    def answer(self, *frames: bytes) -> tuple[int, bytes]:
        """The first frame with which the server answers these."""
        with self.connect() as raw:
            raw.send(*frames)
            return raw.frame()

    def refusal(self, *frames: bytes) -> int:
        """The code with which the server closes because of these."""
        opcode, payload = self.answer(*frames)
        assert opcode == CLOSE
        return int.from_bytes(payload[:2])

    def files(self) -> int:
        """How many it has open, sockets as well."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    echo = Echo(tmp_path_factory.mktemp("echo"))
    yield echo
    echo.stop()


@pytest.fixture(autouse=True)
def quiet(echo: Echo) -> Iterator[None]:
    """Whatever a client does, it is not the server that fails."""
    yield
    log = echo.log.read_text()
    assert "Traceback" not in log, log[-3000:]
    assert "ERROR" not in log, log[-3000:]
    assert echo.process.poll() is None


@pytest.fixture(scope="module")
def verdicts(echo: Echo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Autobahn's verdict for each case. In a process of its own: `kosoku` brings another `autobahn` than Daphne's."""
    folder = tmp_path_factory.mktemp("autobahn")
    command = [str(Path(sys.executable).with_name("kosoku")), f"ws://127.0.0.1:{echo.port}/", "-p", "8"]
    command += [*(f"-i{case}" for case in CASES), "-x7.1.5", "-o", str(folder)]
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=60, check=False)
    (verdicts,) = json.loads((folder / "index.json").read_text()).values()
    return dict(verdicts)


@pytest.mark.parametrize("group", SECTIONS)
def test_autobahn(verdicts: dict[str, dict[str, Any]], group: str) -> None:
    section, count = SECTIONS[group]
    cases = {case: verdict for case, verdict in verdicts.items() if case.split(".")[0] == group}
    failed = [
        case for case, verdict in cases.items() if not {verdict["behavior"], verdict["behaviorClose"]} <= ACCEPTABLE
    ]
    assert not failed, section
    assert len(cases) == count


def test_a_close_amid_a_message_ends_the_connection_with_1002(echo: Echo) -> None:
    """Autobahn's case 7.1.5 wants 1000 here; `websockets` sees a message that never ends, a protocol error (§5.4)."""
    first = frame(TEXT, b"fragment", final=False)
    assert echo.refusal(first, frame(CLOSE, (1000).to_bytes(2))) == 1002


# --- The handshake, §4.2.1 and §4.2.2 -------------------------------------------------------------


def test_the_good_handshake_gets_the_right_key_and_no_extension(echo: Echo) -> None:
    with Raw(echo.port) as raw:
        raw.send(upgrade("/", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"))
        status, headers = raw.head()
    assert status == 101
    assert headers["upgrade"].lower() == "websocket"
    assert headers["connection"].lower() == "upgrade"
    assert headers["sec-websocket-accept"] == ACCEPT
    assert "sec-websocket-extensions" not in headers


KEY = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ("Upgrade: websocket", "Connection: Upgrade")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (upgrade("/", method="POST"), 405),
        (upgrade("/", version="12"), 400),
        (request("/", *UPGRADE, KEY), 400),
        (request("/", *UPGRADE, "Sec-WebSocket-Version: 13"), 400),
        (request("/", *UPGRADE, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: c2hvcnQ="), 400),
        (upgrade("/", KEY), 400),
        (upgrade("/", "Sec-WebSocket-Protocol: a b"), 400),
        (request("/", "Connection: Upgrade", "Sec-WebSocket-Version: 13", KEY), 404),
        (request("/", "Upgrade: websocket", "Sec-WebSocket-Version: 13", KEY), 404),
        (upgrade("/?" + "x" * 9000), 414),
        (upgrade("/", "X-Long: " + "x" * 9000), 431),
        (upgrade("/", *(f"X-{number}: 1" for number in range(200))), 431),
        (upgrade("/", "Content-Length: 4") + b"body", 400),
        (upgrade("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
        (upgrade("/?\xff"), 400),
        (upgrade("/", "X-Control: \x01"), 400),
        (upgrade("/", "No colon"), 400),
    ],
)
def test_any_other_handshake_is_refused_at_once(echo: Echo, head: bytes, status: int) -> None:
    with Raw(echo.port) as raw:
        raw.send(head)
        began = time.monotonic()
        assert raw.head()[0] == status
        if status != 404:  # That is plain HTTP, where a connection may be kept.
            raw.rest()
            assert time.monotonic() - began < 3


def test_a_client_that_does_not_wait_for_the_answer_is_cut_off(echo: Echo) -> None:
    """§4.1: it MUST wait for a response before it sends any further data."""
    for early in (frame(TEXT, b"early"), frame(PING), frame(CLOSE), frame(0xF), b"\xff" * 100):
        with Raw(echo.port) as raw:
            raw.send(upgrade("/?slow"))
            time.sleep(0.1)
            raw.send(early)
            assert raw.rest() == b""


# --- Frames that Autobahn does not send -----------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
def test_a_frame_without_a_mask_ends_the_connection(echo: Echo, opcode: int) -> None:
    """§5.1: a server MUST close the connection upon receiving a frame that is not masked."""
    assert echo.refusal(frame(opcode, b"", mask=None)) == 1002


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\x02\x03\x04"])
def test_any_mask_is_taken_off(echo: Echo, mask: bytes) -> None:
    """§5.3."""
    text = "Grüße, 世界 🎉".encode()
    assert echo.answer(frame(TEXT, text, mask=mask)) == (TEXT, text)


def test_what_the_server_sends_is_not_masked(echo: Echo) -> None:
    """§5.1: a server MUST NOT mask. `Raw.frame` would see the bit in the length."""
    assert echo.answer(frame(TEXT, b"x" * 125)) == (TEXT, b"x" * 125)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 2**63 - 1, FRAME_MAX_BYTES + 1])
def test_a_length_beyond_the_limit_is_refused_before_the_payload_comes(echo: Echo, length: int) -> None:
    """§5.2: the most significant bit MUST be 0; §10.4, §7.4.1: 1009 for what is too big."""
    assert echo.refusal(frame(BINARY, b"", length_bytes=8, length=length)) in (1002, 1009)


def test_fragments_count_together_towards_the_limit(echo: Echo) -> None:
    """§10.4."""
    half = b"x" * (FRAME_MAX_BYTES // 2)
    good = [frame(BINARY, half, final=False), frame(CONTINUATION, half)]
    assert echo.answer(*good) == (BINARY, half + half)
    assert echo.refusal(frame(BINARY, half, final=False), frame(CONTINUATION, half + b"x")) == 1009


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_control_frame_is_neither_long_nor_a_fragment(echo: Echo, opcode: int) -> None:
    """§5.5: MUST have a payload length of 125 bytes or less and MUST NOT be fragmented."""
    assert echo.refusal(frame(opcode, b"x" * 126)) == 1002
    assert echo.refusal(frame(opcode, final=False)) == 1002


@pytest.mark.parametrize("payload", [b"", b"x", b"\x00\xff" * 62])
def test_a_ping_amid_a_message_is_answered_with_what_it_carried(echo: Echo, payload: bytes) -> None:
    """§5.4, §5.5.3."""
    with echo.connect() as raw:
        raw.send(frame(TEXT, b"one ", final=False), frame(PING, payload), frame(CONTINUATION, b"two"))
        assert raw.frame() == (PONG, payload)
        assert raw.frame() == (TEXT, b"one two")


def test_a_byte_at_a_time_is_as_good_as_all_at_once(echo: Echo) -> None:
    """§5.4: frames have nothing to do with TCP segments."""
    with echo.connect() as raw:
        for byte in frame(TEXT, "Grüße".encode()):
            raw.send(bytes((byte,)))
        assert raw.frame() == (TEXT, "Grüße".encode())


def test_a_message_of_all_code_points_comes_back(echo: Echo) -> None:
    """§5.6, §8.1: the surrogates are the only ones that text cannot hold."""
    points = [*range(0xD800), *range(0xE000, 0x110000)]
    with echo.connect() as raw:
        for start in range(0, len(points), 16_000):
            text = "".join(map(chr, points[start : start + 16_000])).encode()
            raw.send(frame(TEXT, text))
            assert raw.frame() == (TEXT, text)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535])
def test_a_close_code_that_nobody_may_send_is_answered_with_1002(echo: Echo, code: int) -> None:
    """§7.4.1, §7.4.2."""
    assert echo.refusal(frame(CLOSE, code.to_bytes(2))) == 1002


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_a_close_is_answered_with_its_code_and_then_the_connection_ends(echo: Echo, code: int) -> None:
    """§5.5.1, §7.1.1: the server closes first."""
    with echo.connect() as raw:
        raw.send(frame(CLOSE, code.to_bytes(2) + "adiós".encode()))
        opcode, payload = raw.frame()
        assert (opcode, payload[:2]) == (CLOSE, _closing(code))
        assert raw.rest() == b""


def test_a_close_with_one_byte_or_a_reason_that_is_not_text_is_an_error(echo: Echo) -> None:
    """§5.5.1."""
    assert echo.refusal(frame(CLOSE, b"\x03")) == 1002
    assert echo.refusal(frame(CLOSE, _closing(1000) + b"\xff")) in (1002, 1007)


def test_what_comes_after_a_close_is_not_read(echo: Echo) -> None:
    """§5.5.1, §1.4."""
    with echo.connect() as raw:
        raw.send(frame(CLOSE, _closing(1000)), frame(TEXT, b"late"), frame(0xF))
        assert raw.frame()[0] == CLOSE
        assert raw.rest() == b""


def test_a_client_that_answers_no_ping_is_ended_even_when_it_reads_nothing(tmp_path: Path) -> None:
    """§5.5.2: a ping asks whether the remote endpoint is still responsive."""
    echo = Echo(tmp_path, "--ws-ping-interval", "0.5", "--ws-ping-timeout", "0.5")
    try:
        files = echo.files()
        with Raw(echo.port, small=True) as deaf:
            deaf.send(upgrade("/"))
            assert deaf.head()[0] == 101
            with suppress(OSError):
                for _ in range(100):
                    deaf.send(frame(TEXT, b"x" * 60_000))
            eventually(lambda: echo.files() == files, 15)
        assert "Traceback" not in echo.log.read_text()
    finally:
        echo.stop()


def _closing(code: int) -> bytes:
    return code.to_bytes(2)
