"""Destinations and deliveries through the API: who may, what is refused, and that secrets are shown once."""

from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from prometheus_client import CollectorRegistry, generate_latest

from accounts.models import AuditEntry
from adapters import destinations
from adapters.base import Outcome
from adapters.metrics import DeliveryCollector
from adapters.models import Delivery, Destination
from tests.accounts.calling import service, user
from tests.adapters.conftest import deliver, owe
from tests.adapters.memory import Memory

pytestmark = pytest.mark.django_db(transaction=True)

HOOK = {"name": "crm", "kind": "webhook", "address": "https://example.com/hook"}
MEMORY = {"name": "crm", "kind": "memory"}


def test_a_destination_is_made_shown_changed_and_deleted() -> None:
    api = service()
    made = api.does("POST", "destinations", HOOK | {"events": ["message"], "topics": ["user."], "types": ["invoice"]})
    assert made["secret"].startswith("whsec_")
    assert made["enabled"]
    shown = api.does("GET", f"destinations/{made['id']}")
    assert {**shown, "secret": made["secret"]} == made
    assert api.does("GET", "destinations")["destinations"] == [shown]
    changed = api.does("PATCH", f"destinations/{made['id']}", {"topics": ["account."], "enabled": False})
    assert (changed["topics"], changed["enabled"], changed["types"]) == (["account."], False, ["invoice"])
    api.does("DELETE", f"destinations/{made['id']}")
    assert api.refusal("GET", f"destinations/{made['id']}") == (404, "unknown_destination")
    assert api.does("GET", "destinations")["destinations"] == []
    api.does("POST", "destinations", HOOK)  # Its name is free again.
    actions = AuditEntry.objects.filter(subject=f"destination:{made['id']}").order_by("id")
    assert list(actions.values_list("action", flat=True)) == [
        "destination.created", "destination.changed", "destination.deleted",
    ]  # fmt: skip


def test_secrets_are_shown_once_sealed_in_the_database_and_rotated() -> None:
    api = service()
    made = api.does("POST", "destinations", HOOK)
    row = Destination.objects.get()
    assert made["secret"] not in row.sealed
    rotated = api.does("POST", f"destinations/{made['id']}/rotate-secret")["secret"]
    row = Destination.objects.get()
    assert destinations.adapter(row).target.secrets == [rotated, made["secret"]]
    third = api.does("POST", f"destinations/{made['id']}/rotate-secret")["secret"]
    assert destinations.adapter(Destination.objects.get()).target.secrets == [third, rotated]
    audit = str(list(AuditEntry.objects.values_list("before", "after")))
    assert not any(secret in audit for secret in (made["secret"], rotated, third))
    table = api.does("POST", "destinations", {"name": "inbox", "kind": "table"})
    assert table["secret"] is None
    assert api.refusal("POST", f"destinations/{table['id']}/rotate-secret") == (409, "no_secret")


def test_options_that_are_secret_reach_the_adapter_and_nobody_else() -> None:
    api = service()
    made = api.does("POST", "destinations", MEMORY | {"options": {"colour": "blue", "password": "xyzzy"}})
    assert made["options"] == {"colour": "blue"}
    row = Destination.objects.get()
    assert "xyzzy" not in f"{row.options}{row.sealed}{list(AuditEntry.objects.values_list('after'))}"
    assert destinations.adapter(row).target.options == {"colour": "blue", "password": "xyzzy"}
    api.does("PATCH", f"destinations/{made['id']}", {"options": {"colour": "green"}})
    assert destinations.adapter(Destination.objects.get()).target.options == {"colour": "green", "password": "xyzzy"}
    api.does("PATCH", f"destinations/{made['id']}", {"options": {"password": ""}})
    assert not destinations.adapter(Destination.objects.get()).target.options.get("password")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param({"name": "crm"}, 400, id="no kind"),
        pytest.param(HOOK | {"kind": "pigeon"}, 400, id="an unknown kind"),
        pytest.param(HOOK | {"colour": "red"}, 400, id="an unknown field"),
        pytest.param(HOOK | {"name": ""}, 400, id="an empty name"),
        pytest.param(HOOK | {"events": "message"}, 400, id="no list"),
        pytest.param(HOOK | {"events": ["mesage"]}, 422, id="an unknown event"),
        pytest.param(HOOK | {"address": "http://10.0.0.1/"}, 422, id="an address that is not allowed"),
        pytest.param(HOOK | {"address": ""}, 422, id="no address"),
        pytest.param(MEMORY | {"options": {"shape": "round"}}, 422, id="an unknown option"),
        pytest.param(MEMORY | {"options": {"colour": 1}}, 422, id="an option of the wrong type"),
    ],
)
def test_what_cannot_work_is_refused_and_not_stored(body: dict[str, Any], status: int) -> None:
    assert service().refusal("POST", "destinations", body)[0] == status
    assert not Destination.objects.exists()


def test_two_destinations_have_two_names() -> None:
    api = service()
    first = api.does("POST", "destinations", MEMORY)
    assert api.refusal("POST", "destinations", MEMORY) == (409, "name_taken")
    other = api.does("POST", "destinations", MEMORY | {"name": "other"})
    assert api.refusal("PATCH", f"destinations/{other['id']}", {"name": first["name"]}) == (409, "name_taken")


def test_only_who_holds_the_scope_sees_or_changes_anything() -> None:
    row = service().does("POST", "destinations", MEMORY)
    calls: list[tuple[str, str, Any]] = [
        ("GET", "destinations", None),
        ("GET", f"destinations/{row['id']}", None),
        ("GET", "deliveries", None),
        ("POST", "destinations", MEMORY),
        ("PATCH", f"destinations/{row['id']}", {"enabled": False}),
        ("DELETE", f"destinations/{row['id']}", None),
        ("POST", f"destinations/{row['id']}/rotate-secret", None),
        ("POST", "deliveries/redrive", {"ids": [1]}),
    ]
    for method, path, body in calls:
        assert user("alice").refusal(method, path, body)[0] == 403
        assert service("notifications:write").refusal(method, path, body) == (403, "scope_missing")
        if method != "GET":
            assert service("deliveries:read").refusal(method, path, body) == (403, "scope_missing")
        assert service("deliveries:write", "deliveries:read")(method, path, body).status_code != 403


def test_turned_on_again_a_destination_starts_afresh() -> None:
    api = service()
    made = api.does("POST", "destinations", MEMORY)
    owe(*(f"user.{n}" for n in range(10)))
    Memory.outcomes["crm"] = [Outcome("down")] * 10
    deliver()
    shown = api.does("GET", f"destinations/{made['id']}")
    assert (shown["failures"], shown["last_error"], shown["counts"]["pending"]) == (10, "down", 10)
    assert shown["paused_until"]
    assert shown["failing_since"]
    on = api.does("PATCH", f"destinations/{made['id']}", {"enabled": True})
    assert (on["failures"], on["paused_until"], on["failing_since"]) == (0, None, None)


def test_deliveries_are_listed_newest_first_by_destination_state_and_event() -> None:
    api = service()
    made = api.does("POST", "destinations", MEMORY)
    ids = owe("user.a", "user.b", "user.c")
    Memory.outcomes["crm"] = [Outcome(), Outcome("status 400", permanent=True, response="400 what?")]
    deliver()
    page = api.does("GET", "deliveries", destination=made["id"], limit=2)
    rest = api.does("GET", "deliveries", destination=made["id"], limit=2, cursor=page["next"])
    found = page["deliveries"] + rest["deliveries"]
    assert [row["event_id"] for row in found] == [str(id) for id in reversed(ids)]
    assert rest["next"] is None
    (dead,) = api.does("GET", "deliveries", state="dead")["deliveries"]
    assert (dead["error"], dead["response"], dead["attempts"]) == ("status 400", "400 what?", 1)
    assert [row["id"] for row in api.does("GET", "deliveries", event=str(ids[1]))["deliveries"]] == [dead["id"]]
    assert api.does("GET", "deliveries", destination=str(uuid4()))["deliveries"] == []
    for query in ({"destination": "x"}, {"event": "1"}, {"state": "lost"}, {"cursor": "x"}):
        assert api.refusal("GET", "deliveries", **query)[0] == 400


def test_dead_letters_are_redriven_by_id_or_for_a_destination() -> None:
    api = service()
    made = api.does("POST", "destinations", MEMORY)
    owe("user.a", "user.b")
    Memory.outcomes["crm"] = [Outcome("status 400", permanent=True)] * 2
    deliver()
    (first, _second) = api.does("GET", "deliveries", state="dead")["deliveries"]
    assert api.does("POST", "deliveries/redrive", {"ids": [first["id"]]}) == {"redriven": 1}
    assert api.does("POST", "deliveries/redrive", {"destination": made["id"], "since": "2020-01-01T00:00:00Z"}) == {
        "redriven": 1
    }
    assert api.does("POST", "deliveries/redrive", {"destination": made["id"]}) == {"redriven": 0}
    wrong: list[dict[str, Any]] = [
        {},
        {"ids": []},
        {"ids": [1], "destination": made["id"]},
        {"since": "2020-01-01T00:00:00Z"},
    ]
    for body in wrong:
        assert api.refusal("POST", "deliveries/redrive", body)[0] == 400
    assert api.refusal("POST", "deliveries/redrive", {"destination": str(uuid4())}) == (404, "unknown_destination")
    late = {"destination": made["id"], "since": "2020-01-01T00:00:00"}
    assert api.refusal("POST", "deliveries/redrive", late)[0] == 400


def test_metrics_count_every_destination_in_one_snapshot() -> None:
    service().does("POST", "destinations", MEMORY)
    owe("user.a", "user.b", "user.c")
    Memory.outcomes["crm"] = [Outcome(), Outcome("status 400", permanent=True), Outcome("503", retry_after=60)]
    deliver()
    registry = CollectorRegistry()
    registry.register(DeliveryCollector())
    text = generate_latest(registry).decode()
    assert 'fanfare_deliveries_accepted_total{destination="crm"} 3.0' in text
    for state, count in (("pending", 1), ("delivered", 1), ("dead", 1), ("expired", 0)):
        assert f'fanfare_deliveries_state{{destination="crm",state="{state}"}} {count}.0' in text
    assert 'fanfare_destination_failures{destination="crm"} 2.0' in text
    metrics = service()._client.get("/metrics")
    assert 'fanfare_deliveries_state{destination="crm",state="dead"} 1.0' in metrics.content.decode()


def test_the_command_lists_dead_letters_and_sends_them_again(capsys: pytest.CaptureFixture[str]) -> None:
    service().does("POST", "destinations", MEMORY)
    owe("user.a", "user.b")
    Memory.outcomes["crm"] = [Outcome("status 400", permanent=True)] * 2
    deliver()
    call_command("deliveries", "list", "--destination", "crm")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "crm: message user.b, 1 attempts: status 400" in lines[0]
    call_command("deliveries", "redrive", str(Delivery.objects.earliest("id").pk))
    call_command("deliveries", "redrive", "--destination", "crm", "--since", "2020-01-01")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["1", "1"]
    call_command("deliveries", "status")
    assert capsys.readouterr().out.splitlines()[1].split() == ["crm", "2", "2", "0", "0", "0", "2"]
    for arguments in (["redrive"], ["redrive", "1", "--destination", "crm"], ["redrive", "--destination", "who"]):
        with pytest.raises(CommandError):
            call_command("deliveries", *arguments)
