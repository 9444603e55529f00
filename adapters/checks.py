"""Start-up checks: what would keep records from coming in, with the setting to change."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from adapters import ingest_settings


@register()
def check_ingest_sources(**_options: Any) -> list[CheckMessage]:
    try:
        ingest_settings.read(settings.INGEST_SOURCES)
    except ImproperlyConfigured as error:
        return [Error(str(error), hint="docs/ingest.md has an example.", id="adapters.E001")]
    return []


@register()
def check_ingest_handlers(**_options: Any) -> list[CheckMessage]:
    problems: list[CheckMessage] = []
    for kind, path in settings.INGEST_HANDLERS.items():
        try:
            import_string(path)
        except ImportError as error:
            problems.append(Error(f"INGEST_HANDLERS, {kind}: {error}.", id="adapters.E002"))
    return problems


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
