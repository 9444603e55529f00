"""What is repeated, when, and with what; and that nothing is repeated that could do harm."""

import time
from typing import Any

import pytest

from fanfare_client import AsyncClient, Client, FanfareError, Policy
from fanfare_client.conversation import retry_after
from tests.clients.python.hostile import Hostile, Say, answer, hang_up, refusal
from tests.servers import free_port

FAST = Policy(timeout=2, deadline=5, first_pause=0.01, longest_pause=0.02)
SENT = {"id": "1", "topic": "user.ann", "epoch": "e", "offset": 1}
USER: dict[str, Any] = {
    "id": "ann",
    "account": None,
    "name": "",
    "attributes": {},
    "created_at": "2026-01-31T12:00:00Z",
}
TOKEN = {"id": "1", "token": "t", "expires_at": "2026-01-31T12:00:00Z"}


@pytest.mark.parametrize(
    "first",
    [hang_up, refusal(503, "busy", retry_after="0"), refusal(429, "rate_limited"), answer(502, b"<html>"), answer(504)],
)
def test_a_post_is_repeated_under_one_key(first: Say) -> None:
    with Hostile(first, first, answer(202, SENT)) as server, Client(server.url, "k", policy=FAST) as client:
        assert client.send("ann", 1).id == "1"
        keys = {server.headers(number)["idempotency-key"] for number in range(3)}
        assert len(keys) == 1
        assert len({server.headers(number)["x-request-id"] for number in range(3)}) == 1
        assert len({request.partition(b"\r\n\r\n")[2] for request in server.requests}) == 1


@pytest.mark.parametrize("first", [hang_up, answer(502, b"<html>"), answer(503, b"<html>"), answer(504)])
def test_what_cannot_be_repeated_is_not_where_it_may_have_been_done(first: Say) -> None:
    with Hostile(first, answer(201, TOKEN)) as server, Client(server.url, "k", policy=FAST) as client:
        with pytest.raises(FanfareError):
            client.tokens.create(user="ann")
        assert len(server.requests) == 1


def test_what_cannot_be_repeated_is_where_it_was_refused() -> None:
    with Hostile(refusal(503, "busy"), answer(201, TOKEN)) as server, Client(server.url, "k", policy=FAST) as client:
        assert client.tokens.create(user="ann").token == "t"


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "malformed"), (403, "denied"), (409, "wrong_state"), (422, "refused"), (500, "internal_error")],
)
def test_a_refusal_is_told_at_once_with_all_that_is_known(status: int, code: str) -> None:
    problem = {"error": {"code": code, "message": "Do that.", "fields": {"to": "one"}}}
    with Hostile(answer(status, problem, x_request_id="abc")) as server:
        with pytest.raises(FanfareError) as refused, Client(server.url, "k", policy=FAST) as client:
            client.send("ann", 1)
    error = refused.value
    assert (error.status, error.code, error.message, error.fields) == (status, code, "Do that.", {"to": "one"})
    assert (error.request_id, error.retry_after) == ("abc", None)
    assert str(error) == f"{code}: Do that. ({status}, request abc)"
    assert len(server.requests) == 1


def test_a_first_request_that_still_runs_is_waited_for() -> None:
    first = refusal(409, "idempotency_in_progress", retry_after="0")
    with Hostile(first, answer(202, SENT)) as server, Client(server.url, "k", policy=FAST) as client:
        assert client.send("ann", 1).id == "1"


def test_it_comes_back_when_it_is_told_to_and_not_before() -> None:
    with Hostile(refusal(429, "rate_limited", retry_after="1"), answer(200, USER)) as server:
        with Client(server.url, "k", policy=FAST) as client:
            began = time.monotonic()
            assert client.users.get("ann").id == "ann"
            assert 1 <= time.monotonic() - began < 3


@pytest.mark.parametrize("pause", ["3600", "999999999"])
def test_it_does_not_wait_for_longer_than_its_deadline(pause: str) -> None:
    with Hostile(refusal(503, "busy", retry_after=pause)) as server, Client(server.url, "k", policy=FAST) as client:
        began = time.monotonic()
        with pytest.raises(FanfareError) as refused:
            client.users.get("ann")
        assert time.monotonic() - began < 1
        assert refused.value.retry_after == float(pause)


def test_attempts_have_an_end() -> None:
    with Hostile(refusal(503, "busy")) as server, Client(server.url, "k", policy=FAST) as client:
        with pytest.raises(FanfareError, match="busy"):
            client.users.get("ann")
        assert len(server.requests) == FAST.attempts


def test_nobody_there_is_unreachable() -> None:
    with Client(f"http://127.0.0.1:{free_port()}", "k", policy=FAST) as client, pytest.raises(FanfareError) as refused:
        client.tokens.create(user="ann")
    assert (refused.value.status, refused.value.code) == (0, "unreachable")


def test_a_token_that_has_expired_is_replaced_once() -> None:
    expired, tokens = refusal(401, "token_expired"), iter(["first", "second", "third"])
    with Hostile(expired, answer(200, USER)) as server:
        with Client(server.url, lambda: next(tokens), policy=FAST) as client:
            client.users.get("ann")
            client.users.get("ann")
        assert [server.headers(n)["authorization"] for n in range(3)] == [
            "Bearer first",
            "Bearer second",
            "Bearer second",
        ]
    with Hostile(expired) as server, Client(server.url, lambda: "same", policy=FAST) as client:
        with pytest.raises(FanfareError, match="token_expired"):
            client.users.get("ann")
        assert len(server.requests) == 1


async def test_the_async_client_repeats_likewise() -> None:
    with Hostile(hang_up, refusal(503, "busy"), answer(202, SENT)) as server:
        async with AsyncClient(server.url, "k", policy=FAST) as client:
            assert (await client.send("ann", 1)).id == "1"
        assert len({server.headers(number)["idempotency-key"] for number in range(3)}) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("5", 5),
        ("-1", None),
        ("1e3", None),
        ("٣", None),
        ("soon", None),
        ("9" * 30, None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu, 99 Jan 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after(text) == seconds


def test_pauses_are_random_and_bounded() -> None:
    policy = Policy(first_pause=1, longest_pause=4)
    for failures, bound in enumerate([1, 2, 4, 4]):
        pauses = [policy.pause(failures) for _ in range(200)]
        assert all(0 <= pause <= bound for pause in pauses)
        assert max(pauses) > bound / 2 > min(pauses)
