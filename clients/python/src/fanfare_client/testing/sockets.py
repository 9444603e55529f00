"""The fake's live connection."""

import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from socket import SHUT_WR, create_connection, socket
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from fanfare_client.testing.refusals import Json, Refusal
from fanfare_client.testing.world import EPOCH, World


@dataclass(eq=False)
class _Peer:
    connection: ServerConnection
    user: str | None
    topics: set[str] = field(default_factory=set)

    def send(self, event: Json) -> None:
        with suppress(ConnectionClosed):
            self.connection.send(json.dumps(event))


class Sockets:
    """A WebSocket server on a port of its own, to which connections are passed on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._peers: set[_Peer] = set()
        self._lock = threading.Lock()
        self._server = serve(self._talk, "127.0.0.1", 0, compression=None)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        world.listeners.append(self._tell)

    def drop(self, code: int) -> None:
        with self._lock:
            peers = list(self._peers)
        for peer in peers:
            peer.connection.close(code)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def pass_on(self, raw: socket) -> None:
        """Carries bytes both ways until one side ends."""
        with create_connection(self._server.socket.getsockname()) as inner:
            back = threading.Thread(target=_carry, args=(inner, raw), daemon=True)
            back.start()
            _carry(raw, inner)
            back.join()

    def _talk(self, connection: ServerConnection) -> None:
        assert connection.request
        try:
            user = self._world.user_of(connection.request.headers.get("authorization", ""))
        except Refusal:
            return connection.close(4501, "no credential that is good")
        peer = _Peer(connection, user)
        with suppress(ConnectionClosed):
            self._converse(peer, connection.request.path)
        return None

    def _converse(self, peer: _Peer, path: str) -> None:
        try:
            with self._world.lock:
                self._welcome(peer, path)
            while True:
                self._act(peer, json.loads(peer.connection.recv()))
        finally:
            with self._lock:
                self._peers.discard(peer)
            with self._world.lock:
                self._world.connected[peer.user or ""] -= 1

    def _welcome(self, peer: _Peer, path: str) -> None:
        query = parse_qs(urlsplit(path).query, keep_blank_values=True)
        own = [f"user.{peer.user}", "all"] if peer.user else []
        peer.topics = {one for one in query.get("topics", [""])[0].split(",") if one} if "topics" in query else set(own)
        self._world.connected[peer.user or ""] += 1
        with self._lock:
            self._peers.add(peer)
        topics = {topic: {"epoch": EPOCH, "offset": len(self._world.logs[topic])} for topic in sorted(peer.topics)}
        counts = self._world.counts(peer.user) if peer.user else {}
        peer.send({"event": "welcome", "connectionId": "fake", "user": peer.user, "topics": topics, **counts})

    def _act(self, peer: _Peer, frame: Any) -> None:
        topic, ref = frame.get("topic"), frame.get("ref")
        match frame.get("action"):
            case "subscribe":
                with self._world.lock:
                    peer.topics.add(topic)
                    log = self._world.logs[topic]
                    missed = log[frame["since"]["offset"] :] if "since" in frame else []
                    for message in (one for one in missed if not one.get("recalled")):
                        peer.send({"event": "message", **message})
                    place = {"topic": topic, "epoch": EPOCH, "offset": len(log), "recovered": True}
                    peer.send({"event": "subscribed", **place, "ref": ref})
            case "unsubscribe":
                peer.topics.discard(topic)
                peer.send({"event": "unsubscribed", "topic": topic, "ref": ref})
            case "ping":
                peer.send({"event": "pong", "ref": ref})
            case _:
                peer.send({"event": "error", "code": "unknown_action", "message": "Not faked.", "ref": ref})

    def _tell(self, topic: str, event: Json) -> None:
        with self._lock:
            peers = [peer for peer in self._peers if topic in peer.topics]
        for peer in peers:
            peer.send(event)


def _carry(source: socket, target: socket) -> None:
    with suppress(OSError):
        while received := source.recv(65536):
            target.sendall(received)
    with suppress(OSError):
        target.shutdown(SHUT_WR)
