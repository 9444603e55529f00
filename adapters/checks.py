"""Start-up checks: what would keep records from coming in, with the setting to change."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured

from adapters import ingest_settings
from realtime.checks import mistake_in_path


@register()
def check_ingest_sources(**_options: Any) -> list[CheckMessage]:
    try:
        ingest_settings.read(settings.INGEST_SOURCES)
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
def check_redrives(**_options: Any) -> list[CheckMessage]:
    if settings.REDRIVES_PER_SECOND >= 1:
        return []
    return [Error("REDRIVES_PER_SECOND is at least 1: with less, no dead letter is sent again.", id="adapters.E004")]


@register()
def check_ingest_tries(**_options: Any) -> list[CheckMessage]:
    if settings.INGEST_TRIES >= 1:
        return []
    return [Error("INGEST_TRIES is at least 1: with less, records are dead before they are tried.", id="adapters.E003")]
