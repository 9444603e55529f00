"""The schema is true: whatever is sent, good or bad, the answer is one that the schema describes, and never a 5xx.

Schemathesis makes the requests, the same ones in each run. What waits is answered outside of Django and has the same
checks, on the running server.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast
from urllib.parse import urlencode

import httpx
import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core import NotSet
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from accounts import users
from accounts.principals import SCOPES
from config.asgi import waiting
from notifications.log import Draft, accept
from tests.security.town import service
from tests.servers import Stack

EXAMPLES = int(os.environ.get("SCHEMA_EXAMPLES", "20"))  # For each operation, good and bad alike.
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
BATCHES = {("POST", "/api/notifications/batch"), ("POST", "/api/leaderboards/{board}")}
BOUNDED = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


def _document() -> dict[str, Any]:
    generator: Any = SchemaGenerator
    return dict(generator().get_schema(request=None, public=True))


DOCUMENT = _document()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
SCHEMA.app = WSGIHandler()
OPERATIONS: list[APIOperation[Any, Any, Any, Any]] = [cast(Any, result).ok() for result in SCHEMA.get_all_operations()]


def _waits(operation: APIOperation[Any, Any, Any, Any]) -> bool:
    """Whether it is answered outside of Django."""
    return operation.path in waiting or (operation.method == "get" and operation.path.startswith("/topics/"))


def _check(case: Case[Any], reply: Any, mode: GenerationMode) -> None:
    """Also that what the schema does not allow is refused; the items of a batch are, each for itself."""
    refused = mode.is_negative and (case.operation.method.upper(), case.operation.path) not in BATCHES
    case.validate_response(reply, checks=[*CHECKS, *([negative_data_rejection] if refused else [])])


@pytest.fixture
def one_transaction() -> Iterator[None]:
    """Requests leave the test's connection open, as those of Django's own test client do."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.mark.django_db
@pytest.mark.usefixtures("one_transaction")
@pytest.mark.filterwarnings("ignore")  # Of schemathesis's own.
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("operation", [one for one in OPERATIONS if not _waits(one)], ids=lambda one: one.label)
def test_every_answer_is_one_that_the_schema_describes(operation: Any, mode: GenerationMode) -> None:
    users.see("alice", "acme", 1.0)
    accept([Draft(["user.alice"], b'{"a":[1]}')])
    key = service(SCOPES)

    @given(case=operation.as_strategy(mode))
    @BOUNDED
    def run(case: Case[Any]) -> None:
        _check(case, case.call(headers={"Authorization": f"Bearer {key}"}), mode)

    run()


# --- What waits -----------------------------------------------------------------------------------


def _body(case: Case[Any]) -> bytes | None:
    """What is sent; nobody has the time to wait for long."""
    if case.body is None or isinstance(case.body, NotSet):
        return None
    if isinstance(case.body, bytes):
        return case.body
    body = dict(case.body) if isinstance(case.body, dict) else case.body
    if isinstance(body, dict) and isinstance(wait := body.get("wait"), int | float) and 0 <= wait <= 20:
        body["wait"] = 0
    return json.dumps(body).encode()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = TemporaryDirectory(prefix="s", dir=os.environ["FANFARE_TEST_FOLDER"])
    with folder as path, Stack(Path(path) / "schema", RATE_USER="") as stack:
        stack.start_web()
        yield stack


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("operation", [one for one in OPERATIONS if _waits(one)], ids=lambda one: one.label)
def test_what_waits_answers_as_the_schema_describes(operation: Any, mode: GenerationMode, stack: Stack) -> None:
    credential = stack.api_key if operation.method == "post" else stack.token("alice", "acme")

    @given(case=operation.as_strategy(mode))
    @BOUNDED
    def run(case: Case[Any]) -> None:
        query = dict(case.query or {})
        if str(query.get("wait", "25")).isdigit():
            query["wait"] = "0"  # Nobody has the time.
        headers = {name.encode(): str(value).strip().encode() for name, value in (case.headers or {}).items()}
        if operation.method == "post":
            headers[b"content-type"] = b"application/json"
        headers[b"authorization"] = f"Bearer {credential}".encode()
        url = f"{stack.web[0].url}{case.formatted_path}?{urlencode(query, doseq=True)}"
        body = _body(case)
        with (
            suppress(httpx.LocalProtocolError),
            httpx.stream(operation.method, url, headers=headers, content=body, timeout=10) as reply,
        ):
            if reply.status_code == 200 and case.operation.path == "/api/stream":
                assert reply.headers["Content-Type"].startswith("text/event-stream")
                return
            reply.read()
            case.validate_response(reply, checks=CHECKS)

    run()
