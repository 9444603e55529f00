"""`manage.py check_outside` calls every destination, and says which do not work and what to change."""

import pytest
from django.core.management import CommandError, call_command

from adapters import destinations
from adapters.shapes import NewDestination
from tests.adapters.conftest import destination
from tests.adapters.receivers import Receiver, status

pytestmark = pytest.mark.django_db(transaction=True)


def hook(name: str, address: str) -> None:
    destinations.create(None, NewDestination(name=name, kind="webhook", address=address))


@pytest.mark.usefixtures("loopback_allowed")
def test_every_destination_is_called_and_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with Receiver() as good, Receiver() as refusing:
        refusing.answer = status(401, b"who are you?")
        hook("a-good", good.url)
        hook("b-refusing", refusing.url)
        destination("c-locked", kind="webhook", address=good.url, sealed="sealed with another key")
        destination("d-strange", kind="pigeon")
        destination("e-off", enabled=False, disabled_reason="An operator has turned it off.")
        destinations.create(None, NewDestination(name="f-table", kind="table"))
        with pytest.raises(CommandError, match="3 of 6 destinations do not work"):
            call_command("check_outside")
    said = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "it answers 200" in said["a-good"]
    assert "401" in said["b-refusing"]
    assert "another secret" in said["b-refusing"]
    assert "SECRETS_KEY" in said["c-locked"]
    assert "ADAPTERS" in said["d-strange"]
    assert "off. An operator" in said["e-off"]
    assert "no event waits" in said["f-table"]
    assert len(good.calls) == 1
    assert b'"fanfare.check"' in good.calls[0].body


def test_without_destinations_it_says_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("check_outside")
    assert "POST /api/destinations" in capsys.readouterr().out
