"""What Fanfare is compared with: each is started on the server's core, with a way to publish to all of its clients."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fanfare import ORDINARY_SEND, Server, fanfare, uvicorn
from benchmarks.load import compiled
from benchmarks.processes import (
    CLIENT_CORE,
    ROOT,
    SERVER_CORE,
    NotInstalled,
    free_port,
    listens,
    running,
    stop,
    valkey,
    wait_until,
)

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("FANFARE_BENCH_CACHE", Path.home() / ".cache" / "fanfare-bench"))
NCHAN_MODULE = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")

Publish = Callable[[Sequence[str]], None]
"""Sends texts to all clients; returns when the server has taken them."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server that fans out: where clients go, what they say first, and what counts as its CPU."""

    port: int
    pid: int
    publish: Publish
    path: str = "/ws/"
    headers: Sequence[str] = ()
    hello: str = ""
    ready: str = ""


Start = Callable[[Path], AbstractContextManager[Target]]


@contextmanager
def fanfare_fast(folder: Path) -> Iterator[Target]:
    with fanfare(folder, second_for_requests=True) as server:
        yield _fanfare_target(server)


@contextmanager
def fanfare_alone(folder: Path) -> Iterator[Target]:
    with fanfare(folder) as server:
        yield _fanfare_target(server)


@contextmanager
def fanfare_ordinary(folder: Path) -> Iterator[Target]:
    with fanfare(folder, protocol=ORDINARY_SEND, second_for_requests=True) as server:
        yield _fanfare_target(server)


def _fanfare_target(server: Server) -> Target:
    return Target(
        server.port,
        server.pid,
        server.publisher("bench"),
        path="/ws/?topics=topic.bench",
        headers=server.user_headers,
        ready='"event":"welcome"',
    )


@contextmanager
def send_loop(folder: Path) -> Iterator[Target]:
    port = free_port()
    with running([compiled(folder, "sendloop"), str(port)], folder, core=SERVER_CORE) as process:
        wait_until(lambda: listens(port), process)
        with socket.create_connection(("127.0.0.1", port)) as publisher:
            publisher.sendall(b"PUBLISH\n")
            yield Target(port, process.pid, lambda texts: publisher.sendall("".join(f"{t}\n" for t in texts).encode()))


@contextmanager
def stock_channels(folder: Path) -> Iterator[Target]:
    port = free_port()
    with ExitStack() as stack:
        env = {"REDIS_URL": stack.enter_context(valkey(folder))}
        command = uvicorn("benchmarks.peers.stock_channels:application", port, ORDINARY_SEND)
        process = stack.enter_context(running(command, folder, core=SERVER_CORE, env=env))
        wait_until(lambda: listens(port), process)
        yield Target(port, process.pid, stack.enter_context(_group_send(env)))


@contextmanager
def _group_send(env: dict[str, str]) -> Iterator[Publish]:
    command = ["taskset", "-c", str(CLIENT_CORE), sys.executable, "-m", "benchmarks.peers.group_send"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **env}, stdin=pipe, stdout=pipe, text=True)

    def publish(texts: Sequence[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps(texts), file=process.stdin, flush=True)
        if process.stdout.readline() != "sent\n":
            raise RuntimeError("group_send ended")

    try:
        yield publish
    finally:
        stop(process)  # type: ignore[arg-type]  # Text or bytes: it only ends.


@contextmanager
def nchan(folder: Path) -> Iterator[Target]:
    program = _which("nginx")
    if program is None or not NCHAN_MODULE.exists():
        raise NotInstalled("nginx with Nchan")
    port = free_port()
    config = folder / "nginx.conf"
    text = (HERE / "nginx.conf").read_text()
    for name, value in (("MODULE", NCHAN_MODULE), ("FOLDER", folder), ("PORT", port)):
        text = text.replace(name, str(value))
    config.write_text(text)
    with running([program, "-c", str(config), "-p", str(folder)], folder, core=SERVER_CORE) as process:
        wait_until(lambda: listens(port), process)
        post = _poster(port, "/publish")

        def publish(texts: Sequence[str]) -> None:
            for text in texts:
                post(text)

        yield Target(port, process.pid, publish)


@contextmanager
def node_ws(folder: Path) -> Iterator[Target]:
    with _node(folder, "ws") as (port, pid):
        post = _poster(port, "/")
        yield Target(port, pid, lambda texts: post(json.dumps(texts)))


@contextmanager
def socket_io(folder: Path) -> Iterator[Target]:
    with _node(folder, "socket.io", script="socketio") as (port, pid):
        post = _poster(port, "/")
        path = "/socket.io/?EIO=4&transport=websocket"
        yield Target(port, pid, lambda texts: post(json.dumps(texts)), path=path, hello="40", ready="40{")


@contextmanager
def _node(folder: Path, package: str, script: str = "") -> Iterator[tuple[int, int]]:
    node = _which("node")
    if node is None or not (CACHE / "node_modules" / package).exists():
        raise NotInstalled(f"Node with {package}")
    port = free_port()
    command = [node, str(HERE / f"{script or package}.js"), str(port)]
    env = {"NODE_PATH": str(CACHE / "node_modules"), "NODE_ENV": "production"}
    with running(command, folder, core=SERVER_CORE, env=env) as process:
        wait_until(lambda: listens(port), process)
        yield port, process.pid


@contextmanager
def nats(folder: Path) -> Iterator[Target]:
    program = _which("nats-server")
    if program is None:
        raise NotInstalled("nats-server")
    port, plain = free_port(), free_port()
    config = folder / "nats.conf"
    config.write_text(f'listen: "127.0.0.1:{plain}"\nwebsocket {{ listen: "127.0.0.1:{port}", no_tls: true }}\n')
    with running([program, "-c", str(config)], folder, core=SERVER_CORE) as process:
        wait_until(lambda: listens(port) and listens(plain), process)
        with socket.create_connection(("127.0.0.1", plain)) as publisher:
            publisher.sendall(b'CONNECT {"verbose":false}\r\n')

            def publish(texts: Sequence[str]) -> None:
                publisher.sendall("".join(f"PUB bench {len(text)}\r\n{text}\r\n" for text in texts).encode())

            hello = 'CONNECT {"verbose":false,"echo":false}\r\nSUB bench 1\r\nPING\r\n'
            yield Target(port, process.pid, publish, path="/", hello=hello, ready="PONG")


def versions() -> str:
    """Of those that are installed."""
    found = [_said_by("nginx", "-v"), _said_by("node", "--version"), _said_by("nats-server", "--version")]
    for package in ("ws", "socket.io"):
        manifest = CACHE / "node_modules" / package / "package.json"
        if manifest.exists():
            found.append(f"{package} {json.loads(manifest.read_text())['version']}")
    return ", ".join(filter(None, found)) or "none"


def _said_by(program: str, flag: str) -> str:
    path = _which(program)
    if path is None:
        return ""
    done = subprocess.run([path, flag], capture_output=True, text=True)
    version = (done.stdout + done.stderr).strip().rpartition(" ")[2].removeprefix("nginx/")
    return f"{program} {version}"


def _which(program: str) -> str | None:
    return shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin")


def _poster(port: int, path: str) -> Callable[[str], None]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def post(body: str) -> None:
        connection.request("POST", path, body)
        reply = connection.getresponse()
        reply.read()
        if reply.status >= 300:
            raise RuntimeError(f"{path}: {reply.status}")

    return post
