"""Thousands of random and damaged handshakes, frames and actions against the real stack, beside a client that behaves.

Whatever comes, the server stays up and calm: no 5xx, no 1011, no traceback, memory flat, nothing left behind, and the
one who behaves gets its messages. `FUZZ_SEED` repeats a run; a failure prints it.
"""

import json
import os
import random
import socket
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.realtime.inside import APPLICATION, accepted, inside, memory
from tests.realtime.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Raw, frame, live, text, upgrade
from tests.servers import Stack, Web, eventually

pytestmark = pytest.mark.any_database

BYTES, HANDSHAKES, ACTIONS = 600, 400, 50  # Connections of each kind.
ACTIONS_A_SOCKET = 40
MEMORY_BYTES = 20e6
CLOSE_CODES = {1000, 1002, 1003, 1007, 1008, 1009, 4429, 4500, 4501}
# Frames and handshakes without a limit: these have their own tests, and here would end what is to be tried.
SETTINGS = {"HANDSHAKES_PER_SECOND": "100000", "FRAMES_PER_SECOND": "100000", "FRAMES_BURST": "100000"}

Attack = Callable[[Raw, random.Random], None]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="f", dir=os.environ["FANFARE_TEST_FOLDER"]) as folder,
        Stack(Path(folder) / "0", CONSTANTS="{}", **SETTINGS) as stack,
    ):
        stack.start_web(APPLICATION)
        yield stack


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("FUZZ_SEED", random.randrange(2**32)))
    print(f"FUZZ_SEED={seed}")
    return random.Random(seed)


class Neighbour:
    """A client that behaves, next to the others: its messages come in order, its pings are answered in time."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._raw = live(stack.web[0].port, stack.token("neighbour"), "user.neighbour")
        self.sent = self.got = 0
        self.slowest = 0.0

    def look(self) -> None:
        with self._stack.client() as client:
            reply = client.post("/api/notifications", json={"to": {"user": "neighbour"}, "data": self.sent})
            assert reply.status_code == 202
        self.sent += 1
        began = time.monotonic()
        self._raw.send(text({"action": "ping", "ref": self.sent}))
        while self.got < self.sent:
            self.got += self._take(self._raw.event("message", "pong"))
        self.slowest = max(self.slowest, time.monotonic() - began)

    def stop(self) -> None:
        self._raw.reset()

    def _take(self, event: dict[str, Any]) -> bool:
        if event["event"] == "message":
            assert event["data"] == self.got
        return bool(event["event"] == "message")


@pytest.fixture
def neighbour(stack: Stack) -> Iterator[Neighbour]:
    neighbour = Neighbour(stack)
    yield neighbour
    neighbour.stop()


@pytest.fixture(autouse=True)
def calm(stack: Stack) -> Iterator[None]:
    web = stack.web[0]
    yield
    assert web.process.poll() is None
    eventually(lambda: not inside(web)["inside"], 20, lambda: str(inside(web))[:300])
    eventually(lambda: accepted(web) <= 1, 20, lambda: str(accepted(web)))
    for line in stack.logs().splitlines():
        assert "Traceback" not in line or '"django.security.DisallowedHost"' in line, line
        assert '"level": "error"' not in line or '"django.security.DisallowedHost"' in line, line


def _attack(stack: Stack, chance: random.Random, attack: Attack, count: int, neighbour: Neighbour) -> Counter[str]:
    """So many connections, one after the other -> how often the server answered what."""
    web = stack.web[0]
    answers: Counter[str] = Counter()
    before = sizes = memory(web)
    for number in range(count):
        with Raw(web.port, seconds=15) as raw:
            answers.update(_answers(raw, attack, chance))
        if number % 50 == 0:
            neighbour.look()
        if number == count // 4:
            before = memory(web)
    neighbour.look()
    sizes = memory(web)
    assert sizes - before < MEMORY_BYTES, (before, sizes)
    assert neighbour.got == neighbour.sent
    assert neighbour.slowest < 5
    return answers


def _answers(raw: Raw, attack: Attack, chance: random.Random) -> list[str]:
    try:
        attack(raw, chance)
        if chance.random() < 0.05:
            raw.reset()
            return ["left"]
        raw.socket.shutdown(socket.SHUT_WR)
        answer = raw.rest()
    except TimeoutError:
        pytest.fail("The server neither answers nor ends.")
    except OSError:
        return ["cut off"]
    return _checked(answer)


def _checked(answer: bytes) -> list[str]:
    """What the server said, which has to be well-formed and must not be that it failed."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if not head:
        return ["nothing"]
    status = int(head.split()[1])
    assert head.startswith(b"HTTP/1.1 "), head
    assert status < 500, answer[:500]
    if status != 101:
        return [str(status)]
    return ["101", *(_checked_frame(opcode, payload) for opcode, payload in _frames(rest))]


def _checked_frame(opcode: int, payload: bytes) -> str:
    if opcode == TEXT:
        event = json.loads(payload)
        return f"{event['event']} {event.get('code', '')}".strip()
    if opcode == CLOSE and payload:
        code = int.from_bytes(payload[:2])
        payload[2:].decode()
        assert code != 1011
        return f"close {code if code in CLOSE_CODES else 'as the client'}"
    assert opcode in (CLOSE, PONG), (opcode, payload)
    return {CLOSE: "close", PONG: "pong frame"}[opcode]


def _frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The whole frames in what a server sent."""
    at = 0
    while len(data) - at >= 2:
        first, length = data[at], data[at + 1]
        assert first & 0xF0 == 0x80, "final, nothing reserved"
        at += 2
        if length >= 126:
            width = 2 if length == 126 else 8
            length = int.from_bytes(data[at : at + width])
            at += width
        if len(data) - at < length:
            return
        yield first & 0xF, data[at : at + length]
        at += length


# --- Bytes and frames -----------------------------------------------------------------------------


def test_damaged_frames(stack: Stack, chance: random.Random, neighbour: Neighbour) -> None:
    credential = f"Authorization: Bearer {stack.token('mallory', subscribe=['*'], publish=['topic.fuzz*'])}"

    def attack(raw: Raw, chance: random.Random) -> None:
        raw.send(upgrade("/ws/", credential))
        if chance.random() < 0.9:  # Else before the answer.
            while b"welcome" not in raw._got:
                raw._more()
        for piece in chance.choice((_noise, _random_frames, _random_frames, _damaged, _damaged))(chance):
            raw.send(piece)
        if chance.random() < 0.1:
            time.sleep(0.02)

    answers = _attack(stack, chance, attack, BYTES, neighbour)
    print(answers)
    assert {"welcome", "error malformed", "close 1002", "close 1009"} <= answers.keys()


def _noise(chance: random.Random) -> list[bytes]:
    return [chance.randbytes(chance.choice((1, 2, 6, 14, 100, 70_000))) for _ in range(chance.randint(1, 4))]


def _random_frames(chance: random.Random) -> list[bytes]:
    """Frames of any kind and size, in most points right."""
    frames, unfinished = [], False
    for _ in range(chance.randint(1, 20)):
        if chance.random() < 0.04:
            opcode = chance.randrange(16)
        else:
            opcode = chance.choice((CONTINUATION if unfinished else chance.choice((TEXT, BINARY)), PING, PONG))
        final = opcode > BINARY or chance.random() < 0.6
        if opcode <= BINARY:
            unfinished = not final
        frames.append(_random_frame(chance, opcode, final))
    return frames


def _random_frame(chance: random.Random, opcode: int, final: bool) -> bytes:
    sizes = (0, 1, 5, 125, 126, 127, 1000, 65_535, 65_536, 65_537) if opcode <= BINARY else (0, 1, 5, 124, 125)
    size = chance.choice(sizes) if chance.random() < 0.97 else 126
    payload = chance.choice((b"x" * size, chance.randbytes(size), _action(chance)[:size]))
    options: dict[str, Any] = {"final": final, "mask": chance.randbytes(4)}
    if chance.random() < 0.02:
        options["mask"] = None
    if chance.random() < 0.02:
        options["reserved"] = chance.randrange(1, 8)
    if chance.random() < 0.02:
        options |= {"length_bytes": 8, "length": chance.choice((0, 125, 2**16, 2**31, 2**32, 2**63, 2**64 - 1))}
    return frame(opcode, payload, **options)


def _damaged(chance: random.Random) -> list[bytes]:
    """What a good client sends, with some bytes changed, lost, doubled or moved, cut anywhere."""
    action = _action(chance)
    middle = len(action) // 2
    stream = bytearray(
        b"".join(
            (
                text({"action": "ping", "ref": 1}),
                frame(TEXT, action),
                frame(PING, b"are you there"),
                frame(TEXT, action[:middle], final=False),
                frame(PONG),
                frame(CONTINUATION, action[middle:]),
                frame(CLOSE, (1000).to_bytes(2) + b"bye"),
            )
        )
    )
    _damage(stream, chance)
    pieces = []
    while stream:
        size = chance.choice((1, 3, 50, 5000))
        pieces.append(bytes(stream[:size]))
        del stream[:size]
    return pieces


def _damage(stream: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(0, 5)):
        at = chance.randrange(len(stream))
        some = bytes(stream[at : at + chance.randint(1, 8)])
        match chance.randrange(4):
            case 0:
                stream[at] ^= 1 << chance.randrange(8)
            case 1:
                del stream[at : at + len(some)]
            case 2:
                stream[at:at] = some
            case 3:
                stream[at : at + len(some)] = chance.randbytes(len(some))
        if not stream:
            stream.append(0)


# --- Handshakes -----------------------------------------------------------------------------------


def test_damaged_handshakes(stack: Stack, chance: random.Random, neighbour: Neighbour) -> None:
    token = stack.token("mallory", subscribe=["topic.*"])

    def attack(raw: Raw, chance: random.Random) -> None:
        path = chance.choice(("/ws/", "/api/stream", "/api/poll", "/ws", "/api/stream/", "/api/poll/x"))
        query = "&".join(_parameter(chance) for _ in range(chance.randint(0, 4)))
        headers = [_header(chance) for _ in range(chance.randint(0, 3))]
        if chance.random() < 0.7:
            headers.append(f"Authorization: Bearer {token}")
        whole = upgrade(f"{path}?{query}", *headers) if path.startswith("/ws") else _request(f"{path}?{query}", headers)
        head = bytearray(whole)
        if chance.random() < 0.5:
            _damage(head, chance)
        raw.send(bytes(head))
        raw.try_to_read(0.03)

    answers = _attack(stack, chance, attack, HANDSHAKES, neighbour)
    print(answers)
    assert {"101", "200", "400", "401"} <= answers.keys()


def _request(path: str, headers: list[str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def _parameter(chance: random.Random) -> str:
    name = chance.choice(("topics", "since", "wait", "authorization", "x", ""))
    value = chance.choice(
        (_topic(chance), str(chance.randint(-10, 2**70)), "eyJhIjpbbnVsbCwwXX0", "%ff%00", "1" * 5000)
    )
    return f"{name}={quote(value, safe='%', errors='replace')}"


def _header(chance: random.Random) -> str:
    name = chance.choice(
        ("Last-Event-ID", "Cookie", "Origin", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Authorization")
    )
    junk = "".join(map(chr, chance.choices(range(0x20, 0x100), k=chance.randint(0, 40))))
    return f"{name}: " + chance.choice(
        (
            junk,
            "fanfare.v1, bearer.x",
            "permessage-deflate; client_max_window_bits=99",
            "http://[",
            "sessionid=x",
            "Bearer",
            "Bearer ff_x",
            "Bearer a.b.c",
            "x" * 9000,
        )
    )


# --- Actions --------------------------------------------------------------------------------------


def test_damaged_actions(stack: Stack, chance: random.Random, neighbour: Neighbour) -> None:
    """Several sockets at once, each with a good frame after any two others, so that none is closed for bad frames."""
    web, errors = stack.web[0], []
    answers: Counter[str] = Counter()
    before = memory(web)

    def run(seed: int) -> None:
        try:
            for number in range(ACTIONS // 4):
                answers.update(_act(stack, web, random.Random(f"{seed} {number}")))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(chance.randrange(2**32),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        neighbour.look()
        time.sleep(0.2)
    for thread in threads:
        thread.join(60)
    print(answers)
    assert not errors, errors[0]
    assert memory(web) - before < 2 * MEMORY_BYTES
    assert {"pong", "subscribed", "unsubscribed", "ok", "error malformed", "error denied"} <= answers.keys()
    assert "error unavailable" not in answers


def _act(stack: Stack, web: Web, chance: random.Random) -> Counter[str]:
    capable = stack.token("mallory", subscribe=["topic.*"], publish=["topic.*"])
    answers: Counter[str] = Counter()
    with live(web.port, chance.choice((capable, stack.api_key)), "") as raw:
        for number in range(ACTIONS_A_SOCKET):
            raw.send(frame(TEXT, _action(chance)), text({"action": "ping", "ref": f"mark {number}"}))
            while True:
                opcode, payload = raw.frame()
                answers[_checked_frame(opcode, payload)] += 1
                if opcode == CLOSE:
                    return answers
                event = json.loads(payload)
                if event["event"] == "pong" and event.get("ref") == f"mark {number}":
                    break
    return answers


def _action(chance: random.Random) -> bytes:
    """An action that may be right, or wrong in one of many ways."""
    action: dict[str, Any] = chance.choice(
        (
            {"action": "ping"},
            {"action": "subscribe", "topic": _topic(chance), "since": {"epoch": _value(chance), "offset": 0}},
            {"action": "subscribe", "topic": _topic(chance), "since": {"epoch": None, "offset": _number(chance)}},
            {"action": "subscribe", "topic": _topic(chance)},
            {"action": "unsubscribe", "topic": _topic(chance)},
            {"action": "publish", "topic": _topic(chance), "data": _value(chance), "type": "note"},
        )
    )
    if chance.random() < 0.5:
        action["ref"] = _value(chance)
    if chance.random() < 0.2:
        action[chance.choice([*action, "more", "event", ""])] = _value(chance)
    if chance.random() < 0.1:
        del action[chance.choice(list(action))]
    try:
        encoded = bytearray(json.dumps(action, ensure_ascii=chance.random() < 0.5).encode())
    except UnicodeEncodeError:
        encoded = bytearray(json.dumps(action).encode())
    if chance.random() < 0.2:
        _damage(encoded, chance)
    return _only_text(bytes(encoded))


def _only_text(encoded: bytes) -> bytes:
    """UTF-8, for what is not ends a socket with 1007, and that has its own tests."""
    return encoded.decode(errors="replace").encode()


def _topic(chance: random.Random) -> str:
    return chance.choice(
        (
            f"topic.fuzz-{chance.randrange(3)}",
            f"topic.fuzz-{chance.randrange(3)}",
            "user.mallory",
            "user.bob",
            "all",
            "control",
            "topic.",
            "topic." + "ö" * chance.choice((1, 100, 101)),
            "topic." + "".join(map(chr, chance.choices(range(0x500), k=5))),
            "topic.\ud800",
            ".",
            "",
        )
    )


def _number(chance: random.Random) -> Any:
    return chance.choice((0, 1, -1, 10, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 0.5, 1e308, float("inf")))


def _value(chance: random.Random, depth: int = 0) -> Any:
    simple: list[Any] = [None, True, "", "text", "🎉", "x" * 500, 7]
    if chance.random() < 0.1:
        simple = ["\0", "\ud83d", _number(chance)]
    if depth > 3 or chance.random() < 0.6:
        return chance.choice(simple)
    if chance.random() < 0.05:
        deep: Any = 0
        for _ in range(chance.choice((30, 31, 32, 33, 900))):
            deep = [deep] if chance.random() < 0.5 else {"a": deep}
        return deep
    if chance.random() < 0.5:
        return [_value(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    return {chance.choice(("a", "b", "", "action")): _value(chance, depth + 1) for _ in range(3)}
