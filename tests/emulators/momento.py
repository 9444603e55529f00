"""A Momento service for the real SDK: gRPC without TLS, and the HTTP API, each on a port of 127.0.0.1."""

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer

import grpc
from momento_wire_types import cacheclient_pb2_grpc as cache_services
from momento_wire_types import cachepubsub_pb2_grpc as topics_services
from momento_wire_types import controlclient_pb2_grpc as control_services
from momento_wire_types import permissionmessages_pb2 as permissions
from momento_wire_types import token_pb2_grpc as token_services

from tests.emulators.momento_cache import CacheService
from tests.emulators.momento_calls import AroundCalls, ControlService, TokenService, TopicService
from tests.emulators.momento_http import Handler
from tests.emulators.momento_store import Failure, Store, Value

HOST = "127.0.0.1"
STREAMS = 300  # A subscription holds a thread.
OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 6 * 1024 * 1024),
    # The SDK pings every 5 s.
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_ping_strikes", 0),
]


class Momento:
    """What the tests see of it. Everything may be called from any thread."""

    host = HOST

    def __init__(self) -> None:
        self.store = Store()
        self.port = 0
        self._server: grpc.Server | None = None
        self._http = ThreadingHTTPServer((HOST, 0), Handler)
        self._http.daemon_threads = True
        self._http.store = self.store  # type: ignore[attr-defined]
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        self.start()
        self.reset()

    @property
    def endpoint(self) -> str:
        """For MOMENTO_ENDPOINT, with MOMENTO_PLAINTEXT."""
        return f"{HOST}:{self.port}"

    @property
    def http_url(self) -> str:
        return f"http://{HOST}:{self._http.server_address[1]}"

    def start(self) -> None:
        """On the same port as before; what it remembers is still there."""
        if self._server is not None:
            return
        pool = ThreadPoolExecutor(STREAMS, thread_name_prefix="momento")
        server = grpc.server(pool, options=OPTIONS, interceptors=[AroundCalls(self.store)])
        cache_services.add_ScsServicer_to_server(CacheService(self.store), server)
        topics_services.add_PubsubServicer_to_server(TopicService(self.store), server)
        control_services.add_ScsControlServicer_to_server(ControlService(self.store), server)
        token_services.add_TokenServicer_to_server(TokenService(self.store, lambda: self.endpoint), server)
        self.port = server.add_insecure_port(f"{HOST}:{self.port}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """As a broken line: calls that run are cut off, new ones find nobody. The HTTP API stays."""
        if self._server is None:
            return
        stopped = self._server.stop(grace=None)
        with self.store.changed:
            self.store.changed.notify_all()
        assert stopped.wait(10)
        self._server = None

    def reset(self) -> None:
        """No caches, topics, keys and failures; a new `api_key`."""
        self.start()
        self.store.clear()
        self.api_key = self.new_key()

    def close(self) -> None:
        self.stop()
        self._http.shutdown()
        self._http.server_close()

    def new_key(self, allowed: permissions.Permissions | None = None) -> str:
        """A key for everything, or for what is allowed."""
        return self.store.new_grant("g", allowed)

    def revoke(self, key: str) -> None:
        """Calls with the key are refused from now on, and its subscriptions end at their next message."""
        with self.store.changed:
            del self.store.grants[key]
            self.store.changed.notify_all()

    def fail(
        self, rpc: str, code: grpc.StatusCode, times: int | None = None, *, cause: str = "", late: bool = False
    ) -> None:
        """Calls of `rpc` ("Publish", "Set", ...; "*" is any) fail so often, or until `heal`. Late: after their effect.

        `cause` is the trailer `err`, such as "operations_rate_limit_exceeded".
        """
        with self.store.changed:
            self.store.failures[rpc] = Failure(code, times, cause, late)

    def delay(self, rpc: str, seconds: float) -> None:
        """Calls of `rpc` take that much longer, until `heal`."""
        with self.store.changed:
            self.store.delays[rpc] = seconds

    def heal(self) -> None:
        with self.store.changed:
            self.store.failures.clear()
            self.store.delays.clear()
            self.store.changed.notify_all()

    def calls(self, rpc: str) -> int:
        """How many there were since the reset, also those that failed."""
        return self.store.calls[rpc]

    def advance(self, seconds: float) -> None:
        """The clock that items, keys and tokens live by goes on."""
        with self.store.changed:
            self.store.moved += seconds
            self.store.changed.notify_all()

    def published(self, cache: str, topic: str) -> list[Value]:
        """Every message since the reset, in order."""
        with self.store.changed:
            return list(self.store.topics[cache, topic].published)

    def publish(self, cache: str, topic: str, value: Value) -> None:
        self.store.publish(cache, topic, value)

    def subscribers(self, cache: str, topic: str) -> int:
        """How many subscriptions are open."""
        with self.store.changed:
            return self.store.subscriptions[cache, topic]

    def turn_page(self, cache: str, topic: str) -> None:
        """The topic's numbers start again on the next page: subscribers see a discontinuity."""
        self.store.turn_page(cache, topic)

    def forget(self, cache: str, topic: str) -> None:
        """Messages up to now cannot be resumed from any more: a discontinuity for who tries."""
        self.store.forget(cache, topic)

    def create_cache(self, name: str) -> None:
        with self.store.changed:
            self.store.caches.setdefault(name, {})

    def caches(self) -> list[str]:
        with self.store.changed:
            return sorted(self.store.caches)

    def items(self, cache: str) -> dict[bytes, bytes | dict[bytes, float]]:
        """What is in a cache now: values, and scores by element for sorted sets."""
        with self.store.changed:
            return {key: item.value for key, item in self.store.cache(cache).items()}
