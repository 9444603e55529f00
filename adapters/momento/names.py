"""Topics at Momento: by default a user's is the user's id, and every other has its own name."""

import re

from django.conf import settings

_PLACE = re.compile(r"\{(name|topic)\}")


def topic_name(topic: str, template: str = "{name}") -> str:
    """Of one of our topics; `{topic}` is its name, `{name}` the id alone where it is a user's.

    An id that looks like a topic is not shortened, so that no user's messages go where others listen.
    """
    user = topic.removeprefix("user.")
    looks_like_a_topic = user.partition(".")[0] in settings.REALTIME_TOPICS
    name = topic if looks_like_a_topic else user
    return _PLACE.sub(lambda found: name if found[1] == "name" else topic, template)


def validate_template(template: str) -> None:
    """Raises ValueError. Of one place each topic has a name of its own, whatever users are called."""
    rest, places = _PLACE.subn("", template)
    if places != 1 or re.search(r"[{}]", rest) or not template.isprintable():
        raise ValueError("topic has {name} or {topic} once, and text around it, without other braces")
