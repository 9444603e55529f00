"""Actions that write something: publishing, and those that REALTIME_ACTIONS leaves to other rooms."""

from typing import Any, Protocol

from django.conf import settings
from django.utils.module_loading import import_string

from accounts.principals import Principal
from accounts.throttles import throttle
from realtime import protocol
from realtime.topics import resolve


class Performer(Protocol):
    """A function of REALTIME_ACTIONS: does what a client asks for on a socket -> what `ok` says. Raises ApiError."""

    def __call__(self, action: Any, principal: Principal, connection_id: str, /) -> dict[str, Any]: ...


def perform(action: protocol.Action, principal: Principal, connection_id: str) -> dict[str, Any]:
    """Does it, in the caller's thread -> what `ok` says. It counts as a request of the caller's. Raises ApiError."""
    throttle(principal)
    if isinstance(action, protocol.Publish):
        return resolve(action.topic).publish(principal, action.topic, action.type, action.data)
    performer: Performer = import_string(settings.REALTIME_ACTIONS[str(action.__struct_config__.tag)])
    return performer(action, principal, connection_id)
