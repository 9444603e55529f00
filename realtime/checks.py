"""Start-up checks: what would fail late fails early, with the setting to change."""

import inspect
import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.utils.module_loading import import_string

from accounts.signatures import sign
from realtime.asking import is_url
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
    tables = {
        "MESSAGE_SINKS": settings.MESSAGE_SINKS,
        "REALTIME_ACTIONS": settings.REALTIME_ACTIONS.values(),
        "TOKEN_PROVIDERS": settings.TOKEN_PROVIDERS.values(),
    }
    single = ("LOG", "GREETING", "MUTES", "OBSERVER", "WATCHING", "TICKER")
    tables |= {f"REALTIME_{name}": [getattr(settings, f"REALTIME_{name}")] for name in single}
    for name, paths in tables.items():
        mistakes = filter(None, map(mistake_in_path, filter(None, paths)))
        found += [Error(f"{name}: {mistake}", id="realtime.E002") for mistake in mistakes]
    return found


def mistake_in_path(path: str) -> str | None:
    """Why nothing can be imported by this dotted path."""
    try:
        import_string(path)
    except ImportError as error:
        return str(error)
    return None


@register()
def check_authorizers(**_options: Any) -> list[CheckMessage]:
    """TOPIC_AUTHORIZERS and its companions: a mistake in them denies what they should decide."""
    return [Error(text, id="realtime.E003") for text in _mistakes_in_authorizers()]


def _mistakes_in_authorizers() -> Iterator[str]:
    table = settings.TOPIC_AUTHORIZERS
    if not isinstance(table, dict):
        yield 'TOPIC_AUTHORIZERS is not a JSON object such as {"topic": "https://app.example/authorize"}.'
        table = {}
    for kind, authorizer in table.items():
        if kind not in settings.REALTIME_TOPICS:
            yield f"TOPIC_AUTHORIZERS: there is no kind of topic {kind!r}."
        if not isinstance(authorizer, str):
            yield f"TOPIC_AUTHORIZERS[{kind!r}] is neither a URL nor a dotted path."
        elif mistake := _mistake_in_url(authorizer) if is_url(authorizer) else _mistake_in_function(authorizer):
            yield f"TOPIC_AUTHORIZERS[{kind!r}]: {mistake}."
    if not 0 < settings.AUTHORIZE_TIMEOUT < math.inf:
        yield "AUTHORIZE_TIMEOUT is not a number of seconds above 0."
    if not settings.AUTHORIZE_CACHE_SECONDS >= 0:
        yield "AUTHORIZE_CACHE_SECONDS is not a number of seconds from 0."
    try:
        sign(settings.AUTHORIZE_SECRET, "msg", 0, b"")
    except ValueError as error:
        yield f"AUTHORIZE_SECRET: {error}."


def _mistake_in_url(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        right = False
    if not right:
        return "not a URL of http or https"
    return "a URL with a password or a fragment" if parts.username is not None or parts.fragment else None


def _mistake_in_function(path: str) -> str | None:
    try:
        function = import_string(path)
    except ImportError as error:
        return str(error)
    if not callable(function) or inspect.isclass(function):
        return f"{path} is not a function"
    return f"{path} is async: it has to be a plain function" if inspect.iscoroutinefunction(function) else None


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
