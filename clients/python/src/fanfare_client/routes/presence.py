"""Who is there."""

from collections.abc import Sequence

from fanfare_client import calls
from fanfare_client.calls import Call, Page, given, path
from fanfare_client.shapes import Member, Presence, Transition


def get(user: str) -> Call[Presence]:
    """Somebody unknown is OFFLINE."""
    return calls.get(path("presence", user), calls.one(Presence))


def query(users: Sequence[str]) -> Call[list[Presence]]:
    """Up to 1000 users, in the order asked."""
    return calls.post(path("presence", "query"), calls.inside("presences", list[Presence]), {"users": list(users)})


def of_account(account: str, *, page_size: int | None = None) -> Call[Page[Presence]]:
    """The users of an account, by their ids; `page_size`: how many are fetched at a time."""
    read = calls.page("presences", Presence)
    return calls.get(path("presence"), read, account=account, limit=page_size)


def say(user: str, availability: str | None = None, text: str | None = None) -> Call[Presence]:
    """What a user says: available, away, busy or invisible, and one line; what is not given stays."""
    return calls.put(path("presence", user), calls.one(Presence), given(availability=availability, text=text))


def history(user: str) -> Call[list[Transition]]:
    """The last 100 changes of status, newest first."""
    return calls.get(path("presence", user, "history"), calls.inside("transitions", list[Transition]))


def room(room: str, *, page_size: int | None = None) -> Call[Page[Member]]:
    """Who is in a room; `page_size`: how many are fetched at a time."""
    return calls.get(path("presence", "rooms", room), calls.page("members", Member), limit=page_size)


def disconnect(user: str) -> Call[None]:
    """Closes all connections of a user."""
    return calls.delete(path("presence", user, "connections"), calls.nothing)
