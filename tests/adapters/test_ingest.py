"""Records from outside: who may hand them in, and what becomes of the good, the bad and those that come again."""

import io
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import pytest
import time_machine
from django.conf import LazySettings
from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command
from django.db import OperationalError, connections
from django.http import HttpResponse
from django.test import Client

from accounts import idempotency
from accounts.errors import ApiError
from accounts.signatures import sign
from adapters import checks, ingest_settings
from adapters.ingest import RECORD_MAX_BYTES, Outcome, Record, Result, ingest, purge, redrive
from adapters.ingest_settings import Source, sources
from adapters.models import FailedRecord
from notifications.models import Message
from tests.security.town import service, signed_in
from tests.test_docs import ROOT, blocks

pytestmark = pytest.mark.django_db

NEW, OLD = "whsec_" + "bmV3" * 11, "the-old-one-which-is-plain-text-0001"
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
GOOD = {"to": {"user": "alice"}, "data": "hello"}
BAD = {"to": {"user": "alice"}}


@pytest.fixture(autouse=True)
def _sources(settings: LazySettings) -> None:
    settings.INGEST_HANDLERS = {**settings.INGEST_HANDLERS, "odd": "tests.adapters.test_ingest.odd"}
    settings.INGEST_SOURCES = {
        "shop": {"kind": "notification", "secrets": [NEW, OLD]},
        "shop-batch": {"kind": "notification", "secrets": [NEW], "batch": True},
        "odd": {"kind": "odd"},
    }


def odd(source: Source, records: Sequence[Record]) -> list[Outcome]:
    """A handler with faults."""
    for record in records:
        if record.body == b"bug":
            raise KeyError("bug")
        if record.body == b"database":
            raise OperationalError("server closed the connection unexpectedly")
        if record.body == b"busy":
            raise ApiError(409, "idempotency_in_progress", "Later.", retry_after=1)
    if records[0].body == b"too few":
        return []
    return [ApiError(422, "refused", "No.") if record.body == b"no" else [record.id] for record in records]


def post(
    name: str, body: Any, *, id: str = "", secret: str = NEW, at: float | None = None, **more: str
) -> HttpResponse:
    """Signs and sends; `more` replaces headers."""
    text = body if isinstance(body, bytes) else msgspec.json.encode(body)
    id, timestamp = id or f"msg_{uuid4().hex}", int(at or time.time())
    headers = {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, id, timestamp, text),
    } | {name.replace("_", "-"): value for name, value in more.items()}
    client = Client(enforce_csrf_checks=True, raise_request_exception=False)
    reply: Any = client.post(f"/api/ingest/{name}", text, content_type="application/json", headers=headers)
    return reply  # type: ignore[no-any-return]


def results(reply: HttpResponse) -> list[dict[str, Any]]:
    assert reply.status_code == 202, reply.content
    return list(msgspec.json.decode(reply.content)["results"])


def refusal(reply: HttpResponse) -> tuple[int, str]:
    return reply.status_code, msgspec.json.decode(reply.content)["error"]["code"]


def batch(*bodies: Any) -> dict[str, Any]:
    return {"records": [{"id": f"r{number}", "body": body} for number, body in enumerate(bodies)]}


def records(*bodies: Any) -> list[Record]:
    return [
        Record(f"r{number}", body if isinstance(body, bytes) else msgspec.json.encode(body))
        for number, body in enumerate(bodies)
    ]


def statuses(found: Sequence[Result]) -> list[str]:
    return [result.status for result in found]


def stored() -> int:
    return Message.objects.count()


# --- Signed HTTP ----------------------------------------------------------------------------------


def test_a_signed_record_is_accepted_and_says_what_it_became() -> None:
    (result,) = results(post("shop", GOOD, id="order-1"))
    message = Message.objects.get()
    assert result == {"id": "order-1", "status": "accepted", "made": [str(message.id)]}
    assert message.topic.name == "user.alice"


@pytest.mark.parametrize("secret", [NEW, OLD])
def test_while_a_secret_is_replaced_both_are_good(secret: str) -> None:
    assert results(post("shop", GOOD, secret=secret))


@pytest.mark.parametrize(
    "more",
    [
        {"webhook_signature": "v1,AAAA"},
        {"webhook_signature": ""},
        {"webhook_id": "another"},
        {"webhook_id": ""},
        {"webhook_timestamp": "1"},
        {"webhook_timestamp": "now"},
    ],
    ids=str,
)
def test_a_signature_that_is_not_right_is_401_and_nothing_is_stored(more: dict[str, Any]) -> None:
    assert refusal(post("shop", GOOD, **more)) == (401, "unauthenticated")
    assert stored() == FailedRecord.objects.count() == 0


def test_another_secret_is_401() -> None:
    assert refusal(post("shop", GOOD, secret="whsec_" + "b3Ro" * 11)) == (401, "unauthenticated")
    assert refusal(post("odd", GOOD)) == (401, "unauthenticated"), "A source without secrets takes no calls."


def test_a_call_of_six_minutes_ago_is_401() -> None:
    assert refusal(post("shop", GOOD, at=time.time() - 360)) == (401, "unauthenticated")
    assert results(post("shop", GOOD, at=time.time() - 240))


def test_a_source_that_there_is_not_is_404_and_the_others_are_not_named() -> None:
    reply = post("nobody", GOOD)
    assert refusal(reply) == (404, "unknown_source")
    assert b"shop" not in reply.content


def test_no_other_credential_opens_it() -> None:
    body = msgspec.json.encode(GOOD)
    for client in (
        Client(headers={"authorization": f"Bearer {service(['notifications:write'])}"}),
        signed_in("boss", is_staff=True, is_superuser=True),
    ):
        reply: Any = client.post("/api/ingest/shop", body, content_type="application/json")
        assert refusal(reply) == (401, "unauthenticated")
    assert stored() == 0


def test_who_guesses_signatures_is_slowed_down(settings: LazySettings) -> None:
    settings.RATE_ADDRESS = "3/h"
    address = f"192.0.2.{uuid4().int % 250}"

    def guess(name: str) -> int:
        reply: Any = Client().post(f"/api/ingest/{name}", b"{}", "application/json", REMOTE_ADDR=address)
        return int(reply.status_code)

    assert [guess("shop"), guess("nobody"), guess("shop"), guess("shop")] == [401, 404, 401, 429]
    assert results(post("shop", GOOD)), "Others are not."


def test_what_is_signed_is_the_body_as_it_was_sent() -> None:
    assert results(post("shop", b' {"data" : "hello",\n "to":{"user":"alice"}} '))


# --- Refused, and dead ----------------------------------------------------------------------------


def test_a_refused_record_is_an_error_in_the_words_of_the_api_until_it_is_dead(settings: LazySettings) -> None:
    settings.INGEST_TRIES = 3
    replies = [post("shop", BAD, id="bad") for _ in range(5)]
    assert [reply.status_code for reply in replies] == [400, 400, 202, 202, 202]
    assert refusal(replies[0]) == (400, "malformed")
    (result,) = results(replies[2])
    assert (result["id"], result["status"], result["error"]["code"]) == ("bad", "dead", "malformed")
    row = FailedRecord.objects.get()
    assert (row.source, row.record_id, row.kind, row.tries) == ("shop", "bad", "notification", 5)
    assert row.error == "malformed: Object missing required field `data`."
    assert row.body == '{"to":{"user":"alice"}}'


def test_a_record_that_is_mended_is_taken_and_forgotten_as_a_failure() -> None:
    assert refusal(post("shop", BAD, id="order-1")) == (400, "malformed")
    assert results(post("shop", GOOD, id="order-1"))[0]["status"] == "accepted"
    assert not FailedRecord.objects.exists()


def test_whole_batch_is_not_repeated_because_of_one_bad_record() -> None:
    body = batch(GOOD, BAD, GOOD, {"to": {"topic": "x"}, "data": 1, "users": []}, GOOD)
    first, second = results(post("shop-batch", body)), results(post("shop-batch", body))
    assert [one["status"] for one in first] == ["accepted", "refused", "accepted", "refused", "accepted"]
    assert first == second
    assert stored() == 3
    assert set(FailedRecord.objects.values_list("record_id", "tries")) == {("r1", 2), ("r3", 2)}


def test_a_bad_record_does_not_keep_the_good_ones_behind_it(settings: LazySettings) -> None:
    settings.INGEST_TRIES = 2
    again = sources()["shop"]
    assert statuses(ingest(again, records(b"\xff\x00", GOOD))) == ["refused", "accepted"]
    assert statuses(ingest(again, records(b"\xff\x00"))) == ["dead"]
    assert FailedRecord.objects.get().body == "\\xff\\x00"


def test_a_handler_that_fails_with_one_record_takes_the_others(caplog: pytest.LogCaptureFixture) -> None:
    found = ingest(sources()["odd"], records(b"1", b"bug", b"2"))
    assert statuses(found) == ["accepted", "refused", "accepted"]
    assert found[1].error is not None
    assert (found[1].error.status, found[1].error.code) == (500, "internal_error")
    assert "KeyError" in caplog.text


def test_a_handler_that_forgets_a_record_has_failed() -> None:
    assert statuses(ingest(sources()["odd"], records(b"too few", b"1"))) == ["refused", "accepted"]


@pytest.mark.parametrize("fault", [b"database", b"busy"])
def test_what_says_nothing_about_the_records_counts_no_try(fault: bytes) -> None:
    with pytest.raises((OperationalError, ApiError)):
        ingest(sources()["odd"], records(b"1", b"no", fault))
    assert not FailedRecord.objects.exists()


def test_a_record_that_is_too_large_is_refused_and_not_kept() -> None:
    large = records(b'"' + b"x" * RECORD_MAX_BYTES + b'"', GOOD)
    found = ingest(sources()["shop"], large)
    assert statuses(found) == ["refused", "accepted"]
    assert found[0].error is not None
    assert (found[0].error.status, found[0].error.code) == (413, "too_large")
    assert FailedRecord.objects.get().body == ""


# --- Once only ------------------------------------------------------------------------------------


def test_redelivery_makes_no_duplicates() -> None:
    first, second = (results(post("shop", GOOD, id="order-1")) for _ in range(2))
    assert first == second
    assert stored() == 1


def test_the_same_record_twice_in_one_batch_counts_once() -> None:
    (one,) = records(GOOD)
    found = ingest(sources()["shop"], [one, one, one])
    assert statuses(found) == ["accepted"] * 3
    assert len({tuple(result.made) for result in found}) == 1
    assert stored() == 1


def test_two_sources_may_use_the_same_ids() -> None:
    post("shop", GOOD, id="r0")
    post("shop-batch", batch(GOOD))
    assert stored() == 2


def test_the_same_id_with_another_body_is_refused_and_the_first_counts() -> None:
    post("shop", GOOD, id="order-1")
    assert refusal(post("shop", {**GOOD, "data": "other"}, id="order-1")) == (422, "idempotency_mismatch")
    one, other = Record("x", msgspec.json.encode(GOOD)), Record("x", msgspec.json.encode({**GOOD, "data": 2}))
    assert statuses(ingest(sources()["shop"], [one, other])) == ["accepted", "refused"]
    assert sorted(Message.objects.values_list("data", flat=True)) == ['"hello"', '"hello"']


@pytest.mark.parametrize("id", ["x" * 300, "tab\tbed", "é" * 200, "nul\0", "\ud800"], ids=repr)
def test_any_id_will_do(id: str) -> None:
    body = msgspec.json.encode(GOOD)
    for _ in range(2):
        (result,) = ingest(sources()["shop"], [Record(id, body)])
        assert (result.id, result.status) == (id, "accepted")
    assert statuses(ingest(sources()["shop"], [Record(id + "!", b"no")])) == ["refused"]
    assert stored() == 1


def test_a_record_is_known_again_for_14_days() -> None:
    for days, expected in ((0, 1), (13, 1), (15, 2)):
        with time_machine.travel(NOW + timedelta(days=days), tick=False):
            idempotency.purge()
            assert statuses(ingest(sources()["shop"], records(GOOD))) == ["accepted"]
            assert stored() == expected


@pytest.mark.django_db(transaction=True)
def test_two_consumers_with_the_same_records_take_each_once() -> None:
    source, some = sources()["shop"], records(*[GOOD] * 20, *[BAD] * 5)
    made: list[list[Result]] = []

    def consume(mine: list[Record]) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                made.append(ingest(source, mine))
                break
            except (ApiError, OperationalError):
                time.sleep(0.05)
        connections.close_all()

    threads = [threading.Thread(target=consume, args=(mine,)) for mine in (some, some[::-1], some)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 3
    assert len({tuple(sorted((one.id, *one.made) for one in found)) for found in made}) == 1
    assert stored() == 20
    assert set(FailedRecord.objects.values_list("tries", flat=True)) == {3}


# --- Batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"nonsense", "malformed_json"),
        (b"\xff", "malformed_json"),
        (b'{"records":[{"id":"1","body":' + b"[" * 5000, "malformed_json"),
        ([], "malformed"),
        (GOOD, "malformed"),
        ({"records": []}, "malformed"),
        ({"records": [{"id": "", "body": GOOD}]}, "malformed"),
        ({"records": [{"id": 7, "body": GOOD}]}, "malformed"),
        ({"records": [{"id": "7"}]}, "malformed"),
        (batch(*[GOOD] * 101), "malformed"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_batch_has_1_to_100_records_each_with_an_id(body: Any, code: str) -> None:
    assert refusal(post("shop-batch", body)) == (400, code)
    assert stored() == FailedRecord.objects.count() == 0


def test_a_body_is_a_batch_only_where_the_source_says_so() -> None:
    assert refusal(post("shop", batch(GOOD))) == (400, "malformed")
    assert stored() == 0


# --- Dead records ---------------------------------------------------------------------------------


def kill(source: Source, *bodies: Any) -> None:
    for _ in range(5):
        found = ingest(source, records(*bodies))
    assert set(statuses(found)) == {"dead"}


def manage(*arguments: str) -> str:
    out = io.StringIO()
    call_command("ingest", *arguments, stdout=out)
    return out.getvalue()


def test_dead_records_are_listed_with_their_reason() -> None:
    kill(sources()["shop"], BAD)
    kill(sources()["odd"], b"no")
    ingest(sources()["shop"], [Record("fresh", b"no")])
    assert len(manage("dead").splitlines()) == 2
    (line,) = manage("dead", "--source", "odd").splitlines()
    assert line.endswith("  odd  r0  refused: No.")


def test_redriven_records_are_taken_once_the_fault_is_mended_and_twice_is_a_no_op(settings: LazySettings) -> None:
    everyone = {"to": {"all": True}, "data": 1}
    kill(sources()["shop"], everyone, BAD, everyone)
    assert manage("redrive", "--source", "shop").endswith("Done: 0 accepted, 3 still dead.\n")
    settings.INGEST_SOURCES = {"shop": {"kind": "notification", "broadcasts": True}}
    assert manage("redrive", "--source", "shop").endswith("Done: 2 accepted, 1 still dead.\n")
    assert manage("redrive", "--source", "shop").endswith("Done: 0 accepted, 1 still dead.\n")
    assert stored() == 2
    assert list(FailedRecord.objects.values_list("record_id", flat=True)) == ["r1"]
    assert statuses(ingest(sources()["shop"], records(everyone))) == ["accepted"], "The sender comes late."
    assert stored() == 2


def test_one_record_or_those_that_died_since_are_redriven(settings: LazySettings) -> None:
    source = sources()["shop"]
    long_id = "x" * 300
    with time_machine.travel(NOW, tick=False):
        kill(source, b"1")
    with time_machine.travel(NOW + timedelta(hours=1), tick=False):
        for _ in range(5):
            ingest(source, [Record(long_id, b"2")])

    def tried(**which: Any) -> list[str]:
        return [one.id for some in redrive(source, **which) for one in some]

    assert tried(ids=["r0"]) == ["r0"]
    assert len(tried(ids=[long_id])) == 1
    assert len(tried(since=NOW + timedelta(minutes=30))) == 1
    assert len(tried(since=NOW)) == 2
    assert "0 accepted, 1 still" in manage("redrive", "--source", "shop", "--since", "2026-06-01T12:30:00Z")
    assert "0 accepted, 1 still" in manage("redrive", "--source", "shop", "--id", "r0")


def test_redriving_keeps_to_its_rate(settings: LazySettings) -> None:
    settings.REDRIVES_PER_SECOND = 20
    source = sources()["odd"]
    kill(source, *[b"no"] * 30)
    started = time.monotonic()
    counts = [len(some) for some in redrive(source)]
    assert counts == [20, 10]
    assert 0.9 < time.monotonic() - started < 3


def test_redriving_says_which_source_there_is_not() -> None:
    with pytest.raises(CommandError, match="INGEST_SOURCES has no 'shpo': shop, "):
        manage("redrive", "--source", "shpo")


def test_failed_records_are_kept_for_so_many_days(settings: LazySettings) -> None:
    settings.DEAD_LETTER_DAYS = 14
    with time_machine.travel(NOW, tick=False):
        ingest(sources()["odd"], records(b"no", b"no"))
    with time_machine.travel(NOW + timedelta(days=13), tick=False):
        ingest(sources()["odd"], records(b"no"))
        assert purge() == 0
    with time_machine.travel(NOW + timedelta(days=15), tick=False):
        assert purge() == 1
    assert FailedRecord.objects.get().tries == 2


# --- Settings -------------------------------------------------------------------------------------


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "is a JSON object"),
        ({"a b": {"kind": "task"}}, "letters"),
        ({"": {"kind": "task"}}, "letters"),
        ({"crm": {"kind": "carrier pigeon"}}, "kind is one of notification, sumu"),
        ({"crm": {}}, "kind"),
        ({"crm": {"kind": "task", "secret": NEW}}, "unknown field `secret`"),
        ({"crm": {"kind": "task", "secrets": NEW}}, "Expected `array`"),
        ({"crm": {"kind": "task", "broadcasts": "no"}}, "Expected `bool`"),
        ({"crm": {"kind": "task", "secrets": ["topsecret"]}}, r"secrets\[0\] has to be 32 characters"),
        ({"crm": {"kind": "task", "secrets": [OLD, "whsec_" + "*topsecret*" * 4]}}, r"secrets\[1\] is not base64"),
    ],
    ids=str,
)
def test_settings_that_are_half_right_do_not_start(settings: LazySettings, value: Any, text: str) -> None:
    settings.INGEST_SOURCES = value
    with pytest.raises(ImproperlyConfigured, match=text) as raised:
        ingest_settings.read(value)
    assert "topsecret" not in str(raised.value)
    assert [error.id for error in checks.check_ingest_sources()] == ["adapters.E001"]


@pytest.mark.any_database
def test_good_settings_pass_the_checks_and_show_no_secret(settings: LazySettings) -> None:
    assert not checks.check_ingest_sources() + checks.check_ingest_handlers() + checks.check_ingest_tries()
    assert sources()["shop"] == Source("shop", "notification", (NEW, OLD))
    assert NEW not in repr(sources()["shop"])
    settings.INGEST_TRIES = 0
    settings.INGEST_HANDLERS = {"task": "notifications.ingest.taks"}
    assert [error.id for error in checks.check_ingest_handlers() + checks.check_ingest_tries()] == [
        "adapters.E002",
        "adapters.E003",
    ]


def test_the_documented_sender_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(ROOT / "docs/ingest.md", "python")
    sender: dict[str, Any] = {}
    exec(code, sender)

    def urlopen(request: Any, body: bytes, timeout: float) -> Any:
        assert timeout
        reply: Any = Client().post(request.full_url, body, content_type="application/json", headers=request.headers)
        assert reply.status_code == 202, reply.content
        return io.BytesIO(reply.content)

    monkeypatch.setattr("urllib.request.urlopen", lambda request, **rest: urlopen(request, request.data, **rest))
    sender["hand_in"]("http://testserver/api/ingest/shop", NEW, "order-1", msgspec.json.encode(GOOD))
    assert stored() == 1
