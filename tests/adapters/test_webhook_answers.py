"""Webhooks: what becomes of what receivers answer, on good days and on bad ones."""

import asyncio
import logging
import re
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from adapters.base import Misconfigured, Outcome
from adapters.webhook import REQUESTS_AT_ONCE
from tests.adapters.contract import parcel
from tests.adapters.receivers import (
    OLD_SECRET,
    SECRET,
    Call,
    Handler,
    Receiver,
    cut,
    drip,
    flood,
    outcome_of,
    status,
    webhook,
)
from tests.servers import free_port

pytestmark = [pytest.mark.any_database, pytest.mark.usefixtures("loopback_allowed")]


# --- Answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [200, 201, 202, 204])
async def test_any_2xx_is_delivered(receiver: Receiver, code: int) -> None:
    receiver.answer = status(code)
    assert await outcome_of(receiver.url) == Outcome(response=str(code))


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504, 599])
async def test_what_may_pass_is_tried_again(receiver: Receiver, code: int) -> None:
    receiver.answer = status(code, b"not now", Retry_After="7")
    outcome = await outcome_of(receiver.url)
    assert outcome == Outcome(f"HTTP status {code}", retry_after=7.0, response=f"{code} not now")


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 410, 413, 415, 422])
async def test_what_will_not_pass_is_not_tried_again(receiver: Receiver, code: int) -> None:
    receiver.answer = status(code, b"never", Retry_After="7")
    outcome = await outcome_of(receiver.url)
    assert (outcome.permanent, outcome.retry_after, outcome.response) == (True, 0.0, f"{code} never")
    assert outcome.error.startswith(f"HTTP status {code}")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(receiver: Receiver, code: int) -> None:
    with Receiver() as elsewhere:
        receiver.answer = status(code, Location=elsewhere.url)
        outcome = await outcome_of(receiver.url)
    assert outcome.permanent
    assert "redirects" in outcome.error
    assert not elsewhere.calls


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ("0", 0, 0),
        ("120", 120, 120),
        ("999999", 3600, 3600),
        ("9" * 400, 3600, 3600),
        ("in 100 s", 60, 100),
        ("in -100 s", 0, 0),
        ("in 1000000 s", 3600, 3600),
        ("Fri, 31 Dec 2100 23:59:59 -0000", 3600, 3600),
        ("soon", 0, 0),
        ("-5", 0, 0),
        ("1.5", 0, 0),
        ("", 0, 0),
        ("٣", 0, 0),
        ("Fri, 99 Dec 9999 99:99:99 GMT", 0, 0),
    ],
)
async def test_retry_after_is_seconds_or_a_date_and_an_hour_at_most(
    receiver: Receiver, header: str, least: float, most: float
) -> None:
    if seconds := re.fullmatch(r"in (-?\d+) s", header):
        header = format_datetime(datetime.now(UTC) + timedelta(seconds=int(seconds[1])), usegmt=True)
    receiver.answer = status(503, Retry_After=header.encode().decode("latin-1"))
    assert least <= (await outcome_of(receiver.url)).retry_after <= most


async def test_after_retry_after_the_rest_of_a_batch_waits_too(receiver: Receiver) -> None:
    receiver.answer = status(429, Retry_After="30")
    async with webhook(receiver.url) as adapter:
        outcomes = await adapter.publish([parcel() for _ in range(100)])
    assert len(receiver.calls) == REQUESTS_AT_ONCE
    assert {outcome.retry_after for outcome in outcomes} == {30.0}
    assert [outcome.tried for outcome in outcomes] == [True] * REQUESTS_AT_ONCE + [False] * (
        len(outcomes) - REQUESTS_AT_ONCE
    )


async def test_what_is_kept_of_an_answer_is_short_and_readable(receiver: Receiver) -> None:
    receiver.answer = status(500, b"\x00no\r\n\t\x1b[31m caf\xc3\xa9 \xff" + b"y" * 3000)
    response = (await outcome_of(receiver.url)).response
    assert response.startswith("500 no [31m café \N{REPLACEMENT CHARACTER}yyy")
    assert len(response) == 504


async def test_no_secret_is_in_what_is_kept_or_logged(receiver: Receiver, caplog: pytest.LogCaptureFixture) -> None:
    def echo(handler: Handler, call: Call) -> None:
        wanted = f"expected {SECRET} or {OLD_SECRET.removeprefix('whsec_')}, token hunter2-hunter2"
        status(500, f"{dict(call.headers)} {wanted}".encode())(handler, call)

    receiver.answer = echo
    caplog.set_level(logging.DEBUG)
    headers = {"Authorization": "Bearer hunter2-hunter2", "X-Key": "another key"}
    async with webhook(receiver.url, SECRET, OLD_SECRET, headers=headers) as adapter:
        outcomes = await adapter.publish([parcel()])
        with pytest.raises(Misconfigured) as refused:
            await adapter.check()
    kept = f"{outcomes} {refused.value} {caplog.text}"
    assert "Authorization" in kept or "authorization" in kept
    for secret in ("hunter2", "another key", SECRET[6:], OLD_SECRET[6:]):
        assert secret not in kept


# --- Bad days -------------------------------------------------------------------------------------


async def test_a_connection_that_is_cut_before_the_answer_is_tried_again(receiver: Receiver) -> None:
    receiver.answer = cut
    async with webhook(receiver.url) as adapter:
        [outcome] = await adapter.publish([sent := parcel()])
        assert not outcome.permanent
        assert outcome.error.startswith("the connection broke")
        receiver.answer = status(200)
        [outcome] = await adapter.publish([sent])
    assert outcome.delivered
    assert {call.headers["webhook-id"] for call in receiver.calls} == {str(sent.id)}


async def test_nobody_there_and_no_such_host_are_tried_again() -> None:
    outcome = await outcome_of(f"http://127.0.0.1:{free_port()}/")
    assert outcome.error.startswith("cannot connect: ")
    assert not outcome.permanent
    outcome = await outcome_of("https://no-such-host.invalid/")
    assert outcome.error.startswith("cannot connect: no-such-host.invalid has no address")
    assert not outcome.permanent


async def test_a_kept_connection_that_the_other_side_has_closed_is_replaced(receiver: Receiver) -> None:
    def answer_and_hang_up(handler: Handler, call: Call) -> None:
        status(200)(handler, call)
        handler.close_connection = True  # Without having said so.

    receiver.answer = answer_and_hang_up
    async with webhook(receiver.url) as adapter:
        for _ in range(3):
            [outcome] = await adapter.publish([parcel()])
            assert outcome.delivered
            await asyncio.sleep(0.05)
    assert len({call.port for call in receiver.calls}) == 3


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nx: "], ids=["silence", "headers"])
async def test_an_answer_that_drips_is_cut_when_its_time_is_over(
    receiver: Receiver, settings: Any, start: bytes
) -> None:
    settings.DELIVERY_TIMEOUT = 0.4
    receiver.answer = drip(start)
    began = time.monotonic()
    outcome = await outcome_of(receiver.url)
    assert 0.3 < time.monotonic() - began < 5
    assert outcome == Outcome("no answer within 0.4 s (DELIVERY_TIMEOUT)")


async def test_once_the_status_is_there_a_body_that_never_ends_does_no_harm(receiver: Receiver, settings: Any) -> None:
    settings.DELIVERY_TIMEOUT = 0.4
    receiver.answer = drip(b"HTTP/1.1 200 OK\r\n\r\n")
    began = time.monotonic()
    outcome = await outcome_of(receiver.url)
    assert time.monotonic() - began < 5
    assert outcome.delivered
    settings.DELIVERY_TIMEOUT = 60
    receiver.answer = flood
    began = time.monotonic()
    assert (await outcome_of(receiver.url)).delivered
    assert time.monotonic() - began < 5


async def test_a_side_that_never_answers_holds_a_batch_up_once(receiver: Receiver, settings: Any) -> None:
    settings.DELIVERY_TIMEOUT = 0.4
    receiver.answer = drip(b"", every=60)
    async with webhook(receiver.url) as adapter:
        began = time.monotonic()
        outcomes = await adapter.publish([parcel() for _ in range(100)])
        assert time.monotonic() - began < 5
        assert len(receiver.calls) <= REQUESTS_AT_ONCE
        assert not any(outcome.delivered or outcome.permanent for outcome in outcomes)
        assert [outcome.tried for outcome in outcomes].count(False) == 100 - REQUESTS_AT_ONCE
        settings.DELIVERY_TIMEOUT = 60
        receiver.answer = status(200)
        assert all(outcome.delivered for outcome in await adapter.publish([parcel() for _ in range(50)]))


async def test_one_event_that_is_never_answered_does_not_hold_up_the_others(receiver: Receiver, settings: Any) -> None:
    settings.DELIVERY_TIMEOUT = 2.0

    def answer(handler: Handler, call: Call) -> None:
        (drip(b"", every=60) if b"poison" in call.body else status(200))(handler, call)

    receiver.answer = answer
    async with webhook(receiver.url) as adapter:
        outcomes = await adapter.publish([parcel("poison" if number == 5 else number) for number in range(100)])
    assert [number for number, outcome in enumerate(outcomes) if outcome.error] == [5]


async def test_a_call_that_is_cancelled_leaves_nothing_open(receiver: Receiver) -> None:
    receiver.answer = drip(b"")
    async with webhook(receiver.url) as adapter:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(adapter.publish([parcel() for _ in range(5)]), 0.3)
        receiver.answer = status(200)
        assert all(outcome.delivered for outcome in await adapter.publish([parcel() for _ in range(20)]))
