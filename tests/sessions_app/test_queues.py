"""Sessions with a queue outside, through the API: made, renewed, ended; who may read them; what is left over."""

from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from django.conf import LazySettings
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from accounts.errors import ApiError
from sessions_app import access, erasure, sessions
from sessions_app import queues as queues_of_sessions
from sessions_app.models import BrowserSession, Dispatch
from tests.emulators.aws import Aws
from tests.security.town import bearer, service
from tests.sessions_app.outside import open_browser
from tests.sessions_app.receivers import send

pytestmark = pytest.mark.django_db

PREFIX = "fanfare-dev-session-"


@pytest.fixture
def backend() -> Client:
    return bearer(service({"sessions:read", "sessions:write"}))


def make(client: Client, **wanted: Any) -> Any:
    body = {"user": "alice", "session": "tab-1", "transport": "sqs"} | wanted
    return client.post("/api/sessions", body, content_type="application/json")


def names() -> list[str]:
    """Of all queues, whoever asks."""
    from moto.sqs.models import sqs_backends

    return sorted(sqs_backends["123456789012"]["us-east-1"].queues)


def retention(name: str) -> int:
    from moto.sqs.models import sqs_backends

    found = sqs_backends["123456789012"]["us-east-1"].get_queue_attributes(name, ["MessageRetentionPeriod"])
    return int(found["MessageRetentionPeriod"])


def expire() -> None:
    BrowserSession.objects.update(expires_at=timezone.now() - timedelta(seconds=1))


def test_without_a_role_for_browsers_there_are_no_queues(backend: Client) -> None:
    refused = make(backend)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "provider_not_configured")
    assert "SESSION_ROLE_ARN" in refused.json()["error"]["message"]
    assert not BrowserSession.objects.exists()


def test_a_queue_is_made_and_access_to_it_is_shown_once(backend: Client, queues: Aws) -> None:
    reply = make(backend, retention=600)
    session = reply.json()["session"]
    assert reply.status_code == 201
    assert session["credentials"].keys() == {
        "accessKeyId",
        "secretAccessKey",
        "sessionToken",
        "expiration",
        "region",
    }
    (name,) = names()
    assert session["sqsUrl"].endswith(f"/{name}")
    assert name.startswith(PREFIX)
    assert len(name) == len(PREFIX) + 43
    assert retention(name) == 600
    row = BrowserSession.objects.get()
    assert row.queue_name == name
    assert session["key"]["value"] not in row.key
    again = backend.get("/api/sessions/tab-1").json()["session"]
    assert again.keys().isdisjoint({"credentials", "key"})


@pytest.mark.parametrize("path", ["", "/tab-1/renew"])
def test_made_again_and_renewed_it_has_the_same_queue_and_fresh_access(backend: Client, queues: Aws, path: str) -> None:
    first = make(backend).json()["session"]
    body = {"user": "alice", "session": "tab-1", "transport": "sqs", "retention": 120} if not path else {}
    reply = backend.post(f"/api/sessions{path}", body, content_type="application/json")
    second = reply.json()["session"]
    assert reply.status_code == 200
    assert second["sqsUrl"] == first["sqsUrl"]
    assert second["key"]["id"] != first["key"]["id"]
    assert second["credentials"]["sessionToken"] != first["credentials"]["sessionToken"]
    (name,) = names()
    assert retention(name) == (3600 if path else 120)


def test_a_queue_that_has_vanished_is_made_anew(backend: Client, queues: Aws) -> None:
    first = make(backend).json()["session"]
    queues_of_sessions.delete([first["sqsUrl"]])
    second = make(backend).json()["session"]
    assert second["sqsUrl"] != first["sqsUrl"]
    assert [f"/{name}" in second["sqsUrl"] for name in names()] == [True]


def test_the_queue_goes_with_its_session(backend: Client, queues: Aws) -> None:
    make(backend)
    assert backend.delete("/api/sessions/tab-1").status_code == 204
    assert names() == []
    make(backend)
    make(backend, session="tab-2", user="bob")
    expire()
    assert sessions.purge() == 2
    assert names() == []


def test_a_session_that_ends_before_it_has_its_queue_is_not_there(queues: Aws) -> None:
    session, _new = sessions.open_session("tab-1", "alice", "", "sqs", 3600, "", "")
    sessions.end(BrowserSession.objects.all())
    with pytest.raises(ApiError) as refused:
        access.give(session)
    assert refused.value.status == 404
    assert names() == []


@pytest.mark.parametrize("operation", ["CreateQueue", "AssumeRole"])
def test_where_aws_does_not_answer_the_session_goes_on_when_it_does(
    backend: Client, queues: Aws, operation: str
) -> None:
    queues.fail(operation, status=503, code="ServiceUnavailable", times=1, late=True)
    refused = make(backend)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "unavailable")
    assert refused["Retry-After"]
    assert "sqsUrl" not in backend.get("/api/sessions/tab-1").json()["session"]
    assert make(backend).status_code == 200
    assert names() == [BrowserSession.objects.get().queue_name]  # Not one that nobody knows of.


def test_a_sessions_credentials_are_for_its_own_queue_only(queues: Aws) -> None:
    mine, others = open_browser(queues), open_browser(queues, "bob")
    assert mine.envelopes() == []
    for call, more in (
        ("receive_message", {}),
        ("delete_message", {"ReceiptHandle": "r"}),
        ("delete_message_batch", {"Entries": [{"Id": "1", "ReceiptHandle": "r"}]}),
        ("change_message_visibility", {"ReceiptHandle": "r", "VisibilityTimeout": 0}),
        ("purge_queue", {}),
        ("delete_queue", {}),
        ("send_message", {"MessageBody": "I am the server"}),
        ("get_queue_attributes", {"AttributeNames": ["All"]}),
        ("set_queue_attributes", {"Attributes": {"MessageRetentionPeriod": "60"}}),
    ):
        with pytest.raises(ClientError, match="403"):
            getattr(mine.sqs, call)(QueueUrl=others.url, **more)
    for call, more in (
        ("purge_queue", {}),
        ("delete_queue", {}),
        ("send_message", {"MessageBody": "I am the server"}),
    ):
        with pytest.raises(ClientError, match="403"):
            getattr(mine.sqs, call)(QueueUrl=mine.url, **more)
    with pytest.raises(ClientError, match="403"):
        mine.sqs.list_queues()


def test_what_is_secret_is_in_no_text_and_not_in_the_open_in_the_database(
    queues: Aws, caplog: pytest.LogCaptureFixture
) -> None:
    session, _new = sessions.open_session("tab", "alice", "", "sqs", 60, "", "")
    given = access.give(session)
    assert given
    secrets = {given.key.value, given.credentials.secret_access_key, given.credentials.session_token}
    row = BrowserSession.objects.values().get()
    for text in (repr(given), str(row), caplog.text):
        assert not any(secret in text for secret in secrets)


def test_who_is_erased_has_no_queues_any_more(
    queues: Aws, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    open_browser(queues, "alice")
    open_browser(queues, "bob")
    send("user.alice", "user.bob")
    with django_capture_on_commit_callbacks(execute=True):
        assert erasure.erase_user("alice")
    assert names() == [BrowserSession.objects.get(user="bob").queue_name]
    assert [row.topic for row in Dispatch.objects.all()] == ["user.bob"]


def test_queues_that_no_session_names_are_deleted_unless_they_are_new(
    queues: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues_of_sessions, "PAGE", 2)
    known = [open_browser(queues).url for _ in range(3)]
    orphans = [queues_of_sessions.make(queues_of_sessions.new_name(), 60) for _ in range(3)]
    foreign = queues_of_sessions.make("somebody-elses", 60)
    assert sessions.delete_orphans() == 0
    monkeypatch.setattr(queues_of_sessions, "YOUNG_SECONDS", -1)
    assert sessions.delete_orphans() == len(orphans)
    assert names() == sorted(queues_of_sessions.name_of(url) for url in [*known, foreign])


def test_the_command_ends_sessions_and_deletes_what_is_left_over(
    queues: Aws, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(queues_of_sessions, "YOUNG_SECONDS", -1)
    open_browser(queues)
    expire()
    queues.fail("DeleteQueue", status=500, code="InternalError", times=1)
    call_command("sessions", "purge")
    assert len(names()) == 1
    call_command("sessions", "cleanup")
    assert capsys.readouterr().out.splitlines() == [
        "1 sessions have ended.",
        "0 sessions have ended.",
        "1 queues are deleted.",
    ]
    assert names() == []
    queues.fail("ListQueues", status=403, code="AccessDenied", times=1)
    with pytest.raises(CommandError, match="not allowed"):
        call_command("sessions", "cleanup")


def test_without_queues_there_is_nothing_to_clean_up(settings: LazySettings) -> None:
    with pytest.raises(CommandError, match="SESSION_ROLE_ARN"):
        call_command("sessions", "cleanup")
