"""Start-up checks: what would fail late fails early, with the setting to change."""

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.utils.module_loading import import_string

from realtime.topics import Topic
from realtime.uvicorn_protocol import fits


@register()
def check_settings_tables(**_options: Any) -> list[CheckMessage]:
    """The dotted paths of the settings tables lead to what they should."""
    found: list[CheckMessage] = []
    for kind, path in settings.REALTIME_TOPICS.items():
        try:
            right = issubclass(import_string(path), Topic)
        except (ImportError, TypeError):
            right = False
        if not right:
            found.append(Error(f"REALTIME_TOPICS[{kind!r}]: {path} is not a topic class.", id="realtime.E001"))
    for name, paths in (("REALTIME_LOG", [settings.REALTIME_LOG]), ("MESSAGE_SINKS", settings.MESSAGE_SINKS)):
        for path in paths:
            try:
                import_string(path)
            except ImportError as error:
                found.append(Error(f"{name}: {error}", id="realtime.E002"))
    return found


@register()
def check_fast_path(**_options: Any) -> list[CheckMessage]:
    if fits():
        return []
    return [
        Warning(
            "The installed Uvicorn is not the one that realtime.uvicorn_protocol was written for.",
            hint="Start it without --ws realtime.uvicorn_protocol:FrameProtocol: slower, but right.",
            id="realtime.W001",
        )
    ]
