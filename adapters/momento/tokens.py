"""Tokens with which a browser listens to its own topics at Momento: one of TOKEN_PROVIDERS."""

import base64
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from accounts.errors import ApiError
from accounts.shapes import OwnToken
from adapters.base import Misconfigured
from adapters.models import Destination
from adapters.momento.clients import Calls, Failed, calls, default_cache
from adapters.momento.names import topic_name
from adapters.momento.topic import MomentoTopic

logger = logging.getLogger(__name__)

SETTING = "MOMENTO_TOKEN_KEY"


def issue(topics: Sequence[str], seconds: int) -> OwnToken:
    """A disposable token to subscribe to these topics, as the first destination at Momento names them.

    Raises ApiError 422 where it is not set up, 503 where Momento does not give one now.
    """
    try:
        cache, template = _place()
        names = [topic_name(topic, template) for topic in topics]
        return _issue(calls(SETTING), cache, names, seconds)
    except Misconfigured as error:
        raise ApiError(422, "provider_not_configured", f"provider: momento is not set up here. {error}") from None
    except Failed as error:
        if error.code != "RESOURCE_EXHAUSTED":
            logger.warning("There are no tokens of Momento: %s", error)
        text = f"There is no token of Momento now: try again. {error}"
        raise ApiError(503, "provider_unavailable", text, retry_after=1) from None


def _place() -> tuple[str, str]:
    """The cache and the names of topics that users' messages go to."""
    found = Destination.objects.filter(kind="momento", enabled=True).order_by("created_at", "pk").first()
    if found is None:
        return default_cache(), MomentoTopic.Options().topic
    return found.address or default_cache(), msgspec.convert(found.options, MomentoTopic.Options).topic


def _issue(momento: Calls, cache: str, names: Sequence[str], seconds: int) -> OwnToken:
    from momento_wire_types import token_pb2

    wanted: Any = token_pb2._GenerateDisposableTokenRequest.Expires(valid_for_seconds=seconds)
    answer = momento.token(expires=wanted, permissions=_listening(cache, names))
    token = msgspec.json.encode({"endpoint": answer.endpoint, "api_key": answer.api_key})
    return OwnToken(answer.endpoint, base64.b64encode(token).decode(), cache, int(answer.valid_until))


def _listening(cache: str, names: Sequence[str]) -> Any:
    """The permission to subscribe to these, and to nothing else."""
    from momento_wire_types import permissionmessages_pb2 as wire

    kind = wire.PermissionsType
    listed = [
        kind(
            topic_permissions=kind.TopicPermissions(
                role=wire.TopicReadOnly,
                cache_selector=kind.CacheSelector(cache_name=cache),
                topic_selector=kind.TopicSelector(topic_name=name),
            )
        )
        for name in names
    ]
    return wire.Permissions(explicit=wire.ExplicitPermissions(permissions=listed))
