"""Destinations that settings ask for: the queue and the topic for what clients send, and presence.

`migrate` makes them, and so does `up`. The name of each is that of its setting; settings decide about its address and
its events, and operators about everything else. Without its setting it stays as it is: a shell without the environment
of the service must not turn it off.
"""

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from accounts.errors import ApiError
from adapters import destinations
from adapters.base import Misconfigured, adapter_class
from adapters.models import Destination
from adapters.shapes import DestinationChange, NewDestination

SOURCES = ("queue", "topic")
OPTIONS = {"shape": "sumu"}


def wanted() -> list[NewDestination]:
    """Raises ImproperlyConfigured with the setting to change."""
    source = settings.PRESENCE_SOURCE or ("topic" if settings.MESSAGES_TOPIC_ARN else "queue")
    if source not in SOURCES:
        raise ImproperlyConfigured(f"PRESENCE_SOURCE is {' or '.join(SOURCES)}, not {source!r}.")
    setting = "MESSAGES_TOPIC_ARN" if source == "topic" else "MESSAGES_QUEUE_URL"
    if settings.PRESENCE_SOURCE and not getattr(settings, setting):
        raise ImproperlyConfigured(f"PRESENCE_SOURCE is {source}, but {setting} is not set: presence would go nowhere.")
    found = [
        _one("MESSAGES_QUEUE_URL", "sqs", "client.send", presence=source == "queue"),
        _one("MESSAGES_TOPIC_ARN", "sns", "client.publish", presence=source == "topic"),
    ]
    return [one for one in found if one]


def ensure(**_signal: Any) -> None:
    """Makes what is wanted and not there, and changes what is there and wanted otherwise; the audit has each change."""
    for one in wanted():
        row = Destination.objects.filter(name=one.name, kind=one.kind).first()
        if row is None:
            try:
                destinations.create(None, one)
            except ApiError as error:
                if error.code != "name_taken":  # By another process that does the same now.
                    raise
        elif (row.address, row.events) != (one.address, one.events):
            destinations.change(None, row, DestinationChange(address=one.address, events=one.events))


def _one(setting: str, kind: str, event: str, *, presence: bool) -> NewDestination | None:
    address = getattr(settings, setting)
    if not address:
        return None
    try:
        adapter_class(kind).validate(address)
    except Misconfigured as error:
        raise ImproperlyConfigured(f"{setting} has to be {error}.") from None
    events = [event, "presence"] if presence else [event]
    return NewDestination(name=setting, kind=kind, address=address, events=events, options=OPTIONS)
