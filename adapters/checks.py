"""Start-up checks: what would keep records from coming in, with the setting to change."""

import re
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from adapters import caches, ingest_settings, settings_destinations
from realtime.checks import mistake_in_path


@register()
def check_ingest_sources(**_options: Any) -> list[CheckMessage]:
    try:
        ingest_settings.read(ingest_settings.written())
    except ImproperlyConfigured as error:
        return [Error(str(error), hint="docs/ingest.md has an example.", id="adapters.E001")]
    return []


@register()
def check_ingest_handlers(**_options: Any) -> list[CheckMessage]:
    return [
        Error(f"INGEST_HANDLERS, {kind}: {mistake}.", id="adapters.E002")
        for kind, path in settings.INGEST_HANDLERS.items()
        if (mistake := mistake_in_path(path))
    ]


@register()
def check_events_caches(**_options: Any) -> list[CheckMessage]:
    try:
        found = caches.read(settings.EVENTS_CACHES)
    except ImproperlyConfigured as error:
        return [Error(str(error), hint="docs/events.md has an example.", id="adapters.E005")]
    return [
        Error(
            f"EVENTS_CACHES, {name!r}: it is Django's cache, too (CACHES), and what is in that is run: whoever may "
            "write here could do anything. Give each a cache of its own.",
            id="adapters.E005",
        )
        for name in sorted(_caches_of_django() & {name for name, one in found.items() if one.backend == "momento"})
    ]


def _caches_of_django() -> set[str]:
    """Their names at Momento."""
    found = settings.CACHES.values()
    return {one.get("LOCATION", "") for one in found if one["BACKEND"] == "adapters.momento.cache.MomentoCache"}


@register()
def check_settings_destinations(**_options: Any) -> list[CheckMessage]:
    try:
        settings_destinations.wanted()
    except ImproperlyConfigured as error:
        return [Error(str(error), hint="docs/aws.md has an example.", id="adapters.E006")]
    return []


@register()
def check_momento(**_options: Any) -> list[CheckMessage]:
    found: list[CheckMessage] = []
    if settings.MOMENTO_PLAINTEXT and not re.fullmatch(r"[^:/]+:\d+", settings.MOMENTO_ENDPOINT):
        text = "MOMENTO_PLAINTEXT=1 needs MOMENTO_ENDPOINT to be a host and a port, such as 127.0.0.1:8080."
        found.append(Error(text, id="adapters.E007"))
    if settings.MOMENTO_API_KEY and not settings.MOMENTO_CACHES:
        found.append(Error("MOMENTO_CACHES is empty: name a cache, such as fanfare-dev.", id="adapters.E007"))
    if settings.MOMENTO_TTL_MAX < 1:
        found.append(Error("MOMENTO_TTL_MAX is at least 1 second.", id="adapters.E007"))
    return found


@register()
def check_redrives(**_options: Any) -> list[CheckMessage]:
    if settings.REDRIVES_PER_SECOND >= 1:
        return []
    return [Error("REDRIVES_PER_SECOND is at least 1: with less, no dead letter is sent again.", id="adapters.E004")]


@register()
def check_ingest_tries(**_options: Any) -> list[CheckMessage]:
    if settings.INGEST_TRIES >= 1:
        return []
    return [Error("INGEST_TRIES is at least 1: with less, records are dead before they are tried.", id="adapters.E003")]
