"""Callers of the identity API."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode

import msgspec
from django.db import connection
from django.http import HttpResponse
from django.test import Client

from accounts import api_keys
from accounts.credentials import from_bearer
from accounts.principals import SCOPES, Principal
from tests.credentials import mint

T = TypeVar("T")


class Api:
    """One caller of the API. A refusal must have the API's one shape."""

    def __init__(self, credential: str | None, **headers: str) -> None:
        self.credential = credential or ""
        bearer = {"authorization": f"Bearer {credential}"} if credential else {}
        self._client = Client(headers=bearer | headers)

    def __call__(self, method: str, path: str, body: Any = None, **query: Any) -> HttpResponse:
        text = b"" if body is None else msgspec.json.encode(body)
        address = f"/api/{path}" + (f"?{urlencode(query)}" if query else "")
        reply = cast(HttpResponse, self._client.generic(method, address, text, "application/json" if text else ""))
        if reply.status_code >= 400:
            assert set(json(reply)) == {"error"}
            assert set(json(reply)["error"]) <= {"code", "message", "fields"}
        return reply

    def does(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """A call that must succeed -> the reply's JSON."""
        reply = self(method, path, body, **query)
        assert reply.status_code < 300, reply.content
        return json(reply) if reply.content else None

    def refusal(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[int, str]:
        """A call that must be refused -> status and code."""
        reply = self(method, path, body, **query)
        assert reply.status_code >= 400, reply.content
        return reply.status_code, json(reply)["error"]["code"]


def json(reply: HttpResponse) -> Any:
    return msgspec.json.decode(reply.content)


def service(*scopes: str, **headers: str) -> Api:
    """A backend with all scopes, unless it is told which."""
    return Api(api_keys.create("acme-backend", scopes or SCOPES)[1], **headers)


def user(name: str, account: str | None = None, *, ttl: int = 3600, **capabilities: Iterable[str]) -> Api:
    return Api(mint(name, account, ttl=ttl, **capabilities))


def who(api: Api) -> Principal:
    return from_bearer(api.credential)


def path_of(name: str) -> str:
    return f"users/{quote(name, safe='')}"


def at_once(times: int, work: Callable[[], T]) -> list[T]:
    """What `work` returns in each of so many threads."""

    def run(_: int) -> T:
        try:
            return work()
        finally:
            connection.close()

    with ThreadPoolExecutor(times) as threads:
        return list(threads.map(run, range(times)))
