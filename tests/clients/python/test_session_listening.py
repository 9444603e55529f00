"""What the core makes of a session's messages and of failures, without a network: both transports."""

import json
import os
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from fanfare_client import Connected, Disconnected, FanfareError, Message, ReceiptEvent, Reset, sqs
from fanfare_client.calls import Call, Reply
from fanfare_client.conversation import Exchange, Failure, Wait
from fanfare_client.routes import notifications
from fanfare_client.session_listening import IDS_KEPT, SQS, SessionListening
from fanfare_client.session_shapes import QueueCredentials, QueueKey, Session, SessionMessage
from tests.clients.envelopes import message, packed, pointer, sealed

pytestmark = pytest.mark.any_database

KEYS = {name: os.urandom(32) for name in ("k1", "k2", "k3")}
URL = "https://sqs.eu-west-1.amazonaws.com/123456789012/fanfare-dev-session-x"
RECEIPT = {"event": "receipt", "id": "r", "topic": "user.ann", "state": "read", "ids": ["a"]}


def session(transport: str = "poll", key: str = "k1", *, seconds: float = 3600, ahead: float = 0) -> Session:
    now = datetime.now(UTC) + timedelta(seconds=ahead)
    ends = now + timedelta(seconds=seconds)
    credentials = QueueCredentials(
        access_key_id="ASIA", secret_access_key="s", session_token="t", expiration=ends, region="eu-west-1"
    )
    has_queue = transport == SQS
    return Session(
        session_id="tab",
        account_id="acme",
        user_id="ann",
        transport=transport,
        topic="session.tab",
        retention=3600,
        created_at=now,
        last_seen_at=now,
        expires_at=ends,
        sqs_url=URL if has_queue else None,
        credentials=credentials if has_queue else None,
        key=QueueKey(id=key, value=packed(KEYS[key])) if has_queue else None,
    )


class Run:
    """Goes through the steps of a core as a shell does, and says what came of each."""

    def __init__(self, given: str | Session) -> None:
        self.core = SessionListening(given, 30)
        self.steps: Generator[Any, Any, None] = self.core.steps()
        self.step: Any = next(self.steps)

    def asks(self, path: str) -> Any:
        """This is what is asked of the server now -> the JSON that goes with it."""
        assert isinstance(self.step, Call), self.step
        assert self.step.target == f"/api/{path}"
        return json.loads(self.step.body) if self.step.body else None

    def asks_queue(self, action: str) -> Any:
        assert isinstance(self.step, Exchange), self.step
        assert self.step.headers["x-amz-target"] == f"AmazonSQS.{action}"
        return json.loads(self.step.body or b"")

    def hands_over(self, kind: type) -> Any:
        """This is handed over now; afterwards it is done with."""
        event = self.step
        assert isinstance(event, kind), event
        self.comes(None)
        return event

    def comes(self, outcome: Any) -> None:
        self.step = self.steps.send(outcome)

    def queue_holds(self, *bodies: Any) -> None:
        self.asks_queue("ReceiveMessage")
        texts = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
        found = [{"ReceiptHandle": f"h{number}", "Body": text} for number, text in enumerate(texts)]
        self.comes(Reply(200, {}, json.dumps({"Messages": found} if found else {}).encode()))

    def deletes(self, count: int) -> None:
        entries = self.asks_queue("DeleteMessageBatch")["Entries"]
        assert [entry["ReceiptHandle"] for entry in entries] == [f"h{number}" for number in range(count)]
        self.comes(Reply(200, {}, b'{"Successful": []}'))

    def fails(self, outcome: Any) -> Disconnected:
        self.comes(outcome)
        lost: Disconnected = self.hands_over(Disconnected)
        assert isinstance(self.step, Wait)
        assert self.step.seconds == lost.pause
        self.comes(None)
        return lost


def lent(*bodies: dict[str, Any]) -> list[SessionMessage]:
    return [SessionMessage(message_id=body["id"], receipt=f"{body['id']}:1", body=body) for body in bodies]


# --- By long polls ----------------------------------------------------------------------------------


def test_each_message_is_acknowledged_once_the_next_one_is_asked_for() -> None:
    run = Run("tab")
    run.asks("sessions/tab/renew")
    run.comes(session())
    assert run.asks("sessions/tab/receive") == {"wait": 0, "max": 10, "visibility": 30}
    run.comes(lent(message("a", 1), RECEIPT, message("b", 2)))
    assert run.hands_over(Connected).user == "ann"
    assert run.hands_over(Message).data == 1
    assert run.hands_over(ReceiptEvent).ids == ("a",)
    done = run.core.acknowledgement()  # As where it is closed now.
    assert isinstance(done, Call)
    assert done.body == b'{"receipts":["a:1","r:1"]}'
    assert run.hands_over(Message).data == 2
    assert run.asks("sessions/tab/ack") == {"receipts": ["b:1"]}
    run.comes(["b:1"])
    assert run.asks("sessions/tab/receive")["wait"] == 20


def test_what_comes_again_is_acknowledged_and_not_handed_over() -> None:
    run = Run(session())
    run.comes(lent(message("a", 1)))
    run.hands_over(Connected)
    run.hands_over(Message)
    lost = run.fails(FanfareError(503, "busy", "Later.", retry_after=1))
    assert (lost.code, lost.pause >= 1) == (503, True)
    assert run.asks("sessions/tab/receive")["wait"] == 0
    run.comes(lent(message("a", 1), message("b", 2)))
    run.hands_over(Connected)
    assert run.hands_over(Message).data == 2
    assert run.asks("sessions/tab/ack") == {"receipts": ["a:1", "b:1"]}


def test_what_is_new_to_this_version_and_what_needs_no_word_is_passed_over() -> None:
    run = Run(session())
    reset = {"event": "reset", "id": "all", "topic": "all", "epoch": "e", "offset": 3}
    run.comes([*lent({"event": "parade", "id": "p"}, reset), SessionMessage(message_id="q", receipt="", body=RECEIPT)])
    run.hands_over(Connected)
    assert run.hands_over(Reset).position.offset == 3
    run.hands_over(ReceiptEvent)
    assert run.asks("sessions/tab/ack") == {"receipts": ["p:1", "all:1"]}


@pytest.mark.parametrize(
    ("status", "code"), [(404, "unknown_session"), (403, "denied"), (401, "revoked"), (409, "wrong_state")]
)
def test_it_ends_where_there_is_no_sense_in_going_on(status: int, code: str) -> None:
    run = Run(session())
    with pytest.raises(FanfareError, match=code):
        run.comes(FanfareError(status, code, "No."))


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503])
def test_it_goes_on_after_these_with_pauses_that_grow(status: int) -> None:
    run = Run(session())
    pauses = [run.fails(FanfareError(status, "busy", "No.")).pause for _ in range(40)]
    assert 5 < max(pauses) <= 30
    assert max(pauses[:2]) <= 1


def test_what_it_remembers_has_an_end() -> None:
    run = Run(session())
    run.comes([])
    run.hands_over(Connected)
    for number in range(IDS_KEPT // 10 + 5):
        run.comes(lent(*(message(f"{number}-{place}") for place in range(10))))
        for _ in range(10):
            run.hands_over(Message)
        run.comes([])
    assert len(run.core._ids) == IDS_KEPT


# --- From a queue -----------------------------------------------------------------------------------


def test_messages_are_deciphered_and_deleted() -> None:
    run = Run(session(SQS))
    wanted = {"QueueUrl": URL, "MaxNumberOfMessages": 10, "WaitTimeSeconds": 0, "VisibilityTimeout": 30}
    assert run.asks_queue("ReceiveMessage") == wanted
    run.queue_holds(*(sealed(event, "tab", "k1", KEYS["k1"]) for event in (message("a", "żółw"), RECEIPT)))
    run.hands_over(Connected)
    assert run.hands_over(Message).data == "żółw"
    assert run.hands_over(ReceiptEvent).ids == ("a",)
    run.deletes(2)
    assert run.asks_queue("ReceiveMessage")["WaitTimeSeconds"] == 20


GOOD = sealed(message("a", 1), "tab", "k1", KEYS["k1"])
OTHER = sealed(message("a", 2), "tab", "k1", KEYS["k1"])


@pytest.mark.parametrize(
    "wrong",
    [
        GOOD | {"data": packed(bytes(40))},
        GOOD | {"data": OTHER["data"]},
        GOOD | {"data": "§"},
        GOOD | {"nonce": OTHER["nonce"]},
        GOOD | {"nonce": ""},
        GOOD | {"topic": "all"},
        GOOD | {"offset": 2},
        GOOD | {"offset": None},
        GOOD | {"messageId": "b"},
        GOOD | {"key": "k2"},
        sealed(message("a", 1), "other tab", "k1", KEYS["k1"]),
        sealed(message("a", 1), "tab", "k1", KEYS["k2"]),
        "no JSON",
        "null",
        "[" * 5000,
    ],
    ids=lambda wrong: str(wrong)[:60],
)
def test_what_was_changed_or_moved_is_refused_and_holds_up_nothing(wrong: Any) -> None:
    run = Run(session(SQS, "k2"))
    run.core._take(session(SQS, "k1"))
    run.queue_holds(wrong, GOOD)
    run.hands_over(Connected)
    assert run.hands_over(Message).data == 1
    run.deletes(2)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_no_bit_can_be_flipped(place: int, bit: int) -> None:
    text = bytearray(json.dumps(GOOD).encode())
    text[place % len(text)] ^= 1 << bit
    run = Run(session(SQS))
    run.queue_holds(text.decode("latin-1"))
    run.hands_over(Connected)
    if isinstance(run.step, Message):  # It was in what nobody reads.
        assert (run.step.id, run.step.data) == ("a", 1)


def test_what_is_in_the_log_is_read_there() -> None:
    run = Run(session(SQS))
    run.queue_holds(
        sealed(pointer("a", 7), "tab", "k1", KEYS["k1"]),
        sealed(message("b", None, 8), "tab", "k2", KEYS["k2"]),  # Of before this program was started.
        sealed(message("c", None, 9), "tab", "k2", KEYS["k2"]),
        sealed(message("d", None, None), "tab", "k2", KEYS["k2"]),
    )
    run.hands_over(Connected)
    now = datetime.now(UTC)
    for id, offset in (("a", 7), ("b", 8)):
        assert run.step.target == notifications.log("user.ann", since=offset - 1, limit=1).target
        logged = Message(id=id, topic="user.ann", offset=offset, type="note", data=offset, created_at=now)
        run.comes([logged])
        assert run.hands_over(Message) == logged
    run.comes([])  # Recalled meanwhile.
    run.deletes(4)


def test_what_may_not_be_read_in_the_log_is_let_go_and_what_cannot_be_now_is_not() -> None:
    run = Run(session(SQS))
    run.queue_holds(sealed(pointer("a", 7), "tab", "k1", KEYS["k1"]))
    run.hands_over(Connected)
    run.fails(FanfareError(503, "busy", "Later."))
    run.queue_holds(sealed(pointer("a", 7), "tab", "k1", KEYS["k1"]))
    run.hands_over(Connected)
    run.comes(FanfareError(403, "denied", "No."))
    run.deletes(1)


def test_it_renews_in_time_and_older_keys_stay_good() -> None:
    run = Run(session(SQS, "k1", seconds=-1))
    run.asks("sessions/tab/renew")
    run.comes(session(SQS, "k2"))
    run.queue_holds(sealed(message("a", 1), "tab", "k1", KEYS["k1"]), sealed(message("b", 2), "tab", "k2", KEYS["k2"]))
    run.hands_over(Connected)
    assert [run.hands_over(Message).data for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("outcome", "renewed"),
    [
        (Reply(403, {}, b'{"__type": "ExpiredToken"}'), True),
        (Reply(400, {}, b'{"__type": "com.amazonaws.sqs#QueueDoesNotExist"}'), True),
        (Reply(500, {}, b"oh"), False),
        (Reply(200, {}, b"<html>"), False),
        (Failure(True, "broke"), False),
        (Failure(False, "nobody there"), False),
    ],
)
def test_access_that_is_refused_is_renewed(outcome: Any, renewed: bool) -> None:
    run = Run(session(SQS))
    run.fails(outcome)
    if renewed:
        run.asks("sessions/tab/renew")
    else:
        run.asks_queue("ReceiveMessage")


def test_a_session_without_access_gets_it_first() -> None:
    plain = session()
    run = Run("tab")
    run.asks("sessions/tab/renew")
    assert "secret" not in repr(session(SQS)).replace("secret_access_key", "")
    assert packed(KEYS["k1"]) not in repr(session(SQS))
    assert plain.credentials is None


def test_requests_are_signed_by_the_servers_clock() -> None:
    run = Run("tab")
    run.comes(session(SQS, ahead=7200))
    said = datetime.strptime(run.step.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs(said.timestamp() - time.time() - 7200) < 5


WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(access=WORDS, secret=WORDS, token=WORDS, now=st.floats(1e9, 4e9), receipt=st.text(max_size=20))
def test_the_signature_is_what_botocore_makes(access: str, secret: str, token: str, now: float, receipt: str) -> None:
    credentials = QueueCredentials(
        access_key_id=access,
        secret_access_key=secret,
        session_token=token,
        expiration=datetime.now(UTC),
        region="eu-west-1",
    )
    ours = sqs.delete(URL, credentials, now, [receipt.encode(errors="ignore").decode()])
    signed = {name: ours.headers[name] for name in ("content-type", "host", "x-amz-target")}
    theirs = AWSRequest("POST", f"{ours.origin}/", headers=signed, data=ours.body)
    signer = SigV4Auth(Credentials(access, secret, token), "sqs", "eu-west-1")
    theirs.context["timestamp"] = ours.headers["x-amz-date"]
    theirs.headers["X-Amz-Date"] = ours.headers["x-amz-date"]
    theirs.headers["X-Amz-Security-Token"] = token
    signature = signer.signature(signer.string_to_sign(theirs, signer.canonical_request(theirs)), theirs)
    assert ours.headers["authorization"].endswith(f"Signature={signature}")
