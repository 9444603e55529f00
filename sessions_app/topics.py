"""`session.<id>`: a topic of the log for one browser of one user."""

from collections.abc import Mapping, Sequence

from accounts.errors import ApiError
from accounts.principals import Principal
from notifications.topics import LogTopic
from realtime.asking import Action
from sessions_app.models import BrowserSession


class SessionTopic(LogTopic):
    """Its user hears it; services write to it, as long as the session is there."""

    authorizer = "sessions_app.topics.may"

    def missing(self, names: Sequence[str]) -> Mapping[str, ApiError]:
        there = set(BrowserSession.objects.filter(topic__in=names).values_list("topic", flat=True))
        return {name: unknown() for name in names if name not in there}


def may(action: Action, topic: str, principal: Principal) -> bool:
    """Whether it is a session of this user (TOPIC_AUTHORIZERS)."""
    return action == "subscribe" and BrowserSession.objects.filter(topic=topic, user=principal.acts).exists()


def unknown() -> ApiError:
    return ApiError(404, "unknown_session", "There is no session with this id, or it has expired: create it.")
