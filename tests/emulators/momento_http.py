"""Momento's HTTP API: items by key, topics by long poll. Errors are text; the token is the raw header or `?token=`."""

import base64
import binascii
import json
import time
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import grpc

from tests.emulators.momento_cache import scalar
from tests.emulators.momento_calls import only_for_topic
from tests.emulators.momento_rights import may_use_items
from tests.emulators.momento_store import Item, Refused, Store

POLL_SECONDS = 5.0
STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}
RPCS = {"PUT cache": "Set", "GET cache": "Get", "DELETE cache": "Delete"}
RPCS |= {"POST topics": "Publish", "GET topics": "Subscribe"}


class Handler(BaseHTTPRequestHandler):
    """Its server has the store as `store`."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: Any) -> None:
        pass

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            status, kind, content = self._call(body)
        except Refused as refused:
            status, kind, content = STATUS.get(refused.code, 500), "text/plain", refused.details.encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = _answer

    def _call(self, body: bytes) -> tuple[int, str, bytes]:
        store: Store = self.server.store  # type: ignore[attr-defined]
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        rpc = RPCS.get(f"{self.command} {parts[0]}")
        if rpc is None or len(parts) != {"cache": 2, "topics": 3}[parts[0]]:
            return 404, "text/plain", b"Not Found"
        with store.call(rpc):
            token = self._token(query)
            if parts[0] == "topics":
                return self._topic(store, token, parts[1], parts[2], query, body)
            with store.changed:
                return self._item(store, token, parts[1], query, body)

    def _token(self, query: dict[str, str]) -> str:
        header = self.headers.get("Authorization")
        if header is not None and "token" in query:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "The token is in the header and in the URL")
        return header or query.get("token", "")

    def _item(self, store: Store, token: str, cache: str, query: dict[str, str], body: bytes) -> tuple[int, str, bytes]:
        key = key_in(query)
        if not may_use_items(store.grant(token).allowed, cache, [key], writes=self.command != "GET"):
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, "Forbidden")
        if cache not in store.caches:
            return 404, "text/plain", b"Cache Not Found"
        items = store.cache(cache)
        if self.command == "PUT":
            items[key] = Item(body, store.now() + number_in(query, "ttl_seconds"))
        elif self.command == "DELETE":
            items.pop(key, None)
        else:
            value = scalar(items, key)
            return (404, "text/plain", b"Key Not Found") if value is None else (200, "application/octet-stream", value)
        return 204, "", b""

    def _topic(
        self, store: Store, token: str, cache: str, topic: str, query: dict[str, str], body: bytes
    ) -> tuple[int, str, bytes]:
        only_for_topic(store, token, cache, topic, writes=self.command == "POST")
        if cache not in store.caches:
            return 404, "text/plain", b"Cache Not Found"
        if self.command == "POST":
            text = self.headers.get("Content-Type", "").startswith("text/plain")
            store.publish(cache, topic, body.decode() if text else body)
            return 204, "", b""
        items = polled(store, (cache, topic), query)
        return 200, "application/json", json.dumps({"items": items}).encode()


def polled(store: Store, where: tuple[str, str], query: dict[str, str]) -> list[dict[str, Any]]:
    """What is on the topic from `sequence_number` on, waiting for the first of it."""
    deadline = time.monotonic() + POLL_SECONDS
    with store.changed:
        topic = store.topics[where]
        wanted = int(query.get("sequence_number") or 0) or topic.last + 1
        page = int(query.get("sequence_page") or 0) or topic.page
        while page == topic.page and topic.last < wanted and time.monotonic() < deadline:
            store.changed.wait(deadline - time.monotonic())
            topic = store.topics[where]
        items: list[dict[str, Any]] = []
        first = topic.history[0][0] if topic.history else topic.last + 1
        if wanted < first or page != topic.page:
            gap = {"last_topic_sequence": wanted - 1, "new_topic_sequence": first, "new_sequence_page": topic.page}
            items.append({"discontinuity": gap})
            wanted = first
        for number, value in topic.history:
            if number >= wanted:
                content = {"text": value} if isinstance(value, str) else {"binary": base64.b64encode(value).decode()}
                item = {"sequence_page": topic.page, "topic_sequence_number": number, "value": content}
                items.append({"item": item})
        return items


def key_in(query: dict[str, str]) -> bytes:
    if ("key" in query) == ("key_base64" in query):
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "Exactly one of key, key_base64")
    try:
        return query["key"].encode() if "key" in query else base64.urlsafe_b64decode(query["key_base64"])
    except binascii.Error:
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "key_base64 is not base64") from None


def number_in(query: dict[str, str], name: str) -> int:
    try:
        return int(query[name])
    except (KeyError, ValueError):
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"{name} is not a number") from None
