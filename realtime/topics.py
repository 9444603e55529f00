"""Topics: named streams, `kind.key` or a bare kind. The kind decides who may do what; an unlisted kind is denied."""

from functools import cache
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string

from accounts.errors import ApiError
from accounts.principals import ID_MAX_BYTES, Principal, valid_id


class Topic:
    """What one kind of topic allows. Subclasses are listed in REALTIME_TOPICS; what they do not allow is denied."""

    keyed = True
    shared = False  # Many listen to the same one: the hub keeps its latest events in memory.

    def may_subscribe(self, principal: Principal, name: str) -> bool:
        return False

    def may_publish(self, principal: Principal, name: str) -> bool:
        return False

    def publish(self, principal: Principal, name: str, type: str, data: Any) -> dict[str, Any]:
        """Accepts a message from a client -> `{id, topic, epoch, offset}`. The caller has asked `may_publish`."""
        raise NotImplementedError


def resolve(name: str) -> Topic:
    """The rules for a topic. Raises ApiError 400 for a name that cannot be, 403 for a kind that is not open."""
    kind, dot, key = name.partition(".")
    topic = _kinds().get(kind)
    if topic is None:
        raise ApiError(403, "denied", f"There is no topic {kind[:50]!r} for you: {', '.join(sorted(_kinds()))}.")
    if topic.keyed != bool(dot) or (dot and not valid_id(key)):
        raise ApiError(
            400,
            "malformed_topic",
            f"Not a topic of kind {kind}: a key is 1-{ID_MAX_BYTES} bytes of printable text without comma."
            if topic.keyed
            else f"Topic {kind} has no key.",
        )
    return topic


def is_shared(name: str) -> bool:
    return resolve(name).shared


@cache
def _kinds() -> dict[str, Topic]:
    return {kind: import_string(path)() for kind, path in settings.REALTIME_TOPICS.items()}
