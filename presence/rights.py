"""Who may see whose presence: users themselves and those of their account, and who is given more."""

from collections.abc import Iterable

from django.conf import settings

from accounts.models import User
from accounts.principals import Kind, Principal
from realtime.authorizers import QUESTIONS_MAX, refusals_now

READ, WRITE = "presence:read", "presence:write"
KIND = "watch"


def topic_of(user: str) -> str:
    return f"{KIND}.{user}"


def user_of(topic: str) -> str:
    return topic.removeprefix(f"{KIND}.")


def freely(principal: Principal, user: str) -> bool:
    """Whether the caller may see a user whatever account they are in: by scope, by capability, or as themselves."""
    return principal.has_scope(READ) or principal.can_subscribe(topic_of(user)) or principal.acts == user


def visible(principal: Principal, users: Iterable[str]) -> set[str]:
    """Those of the users whom the caller may see. It asks the database once, or the authoriser of `watch`."""
    found, rest = set(), []
    for user in dict.fromkeys(users):
        if freely(principal, user):
            found.add(user)
        else:
            rest.append(user)
    if not rest or principal.kind is not Kind.USER:
        return found
    if KIND in settings.TOPIC_AUTHORIZERS:
        return found | _by_authorizer(principal, rest)
    return found | of_account(principal.account, rest)


def of_account(account: str | None, users: Iterable[str]) -> set[str]:
    """Those of the users who are in this account."""
    if account is None:
        return set()
    return set(User.objects.filter(pk__in=list(users), account_id=account).values_list("pk", flat=True))


def may(action: str, topic: str, principal: Principal) -> bool:
    """Decides about `watch.<user>` unless TOPIC_AUTHORIZERS names somebody else for it."""
    return action == "subscribe" and bool(of_account(principal.account, [user_of(topic)]))


def _by_authorizer(principal: Principal, users: list[str]) -> set[str]:
    found: set[str] = set()
    for start in range(0, len(users), QUESTIONS_MAX):
        chunk = users[start : start + QUESTIONS_MAX]
        refused = refusals_now(principal, "subscribe", [topic_of(user) for user in chunk])
        if unasked := next((error for error in refused.values() if error.status == 503), None):
            raise unasked  # Nobody has said no.
        found.update(user for user in chunk if topic_of(user) not in refused)
    return found
