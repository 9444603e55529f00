"""From a request's notification to a draft for the log: every rule that a notification has to keep."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import msgspec
from django.conf import settings
from django.utils import timezone
from msgspec import UNSET

from accounts.errors import ApiError
from accounts.idempotency import Claim
from accounts.principals import ID_WANTED, Principal, valid_id
from accounts.requests import wrong
from notifications.log import Draft
from notifications.shapes import Notification, Target
from realtime.authorizers import refusals_now
from realtime.topics import topic_for

TYPE_MAX = 100


def draft(
    notification: Notification,
    principal: Principal,
    claim: Claim | None = None,
    refused: Mapping[str, ApiError] | None = None,
) -> Draft:
    """`refused`: what `refusals_now` says about the topics, where it has been asked. Raises ApiError 400, 403, 413, 422
    or 503."""
    topics = targets(notification.to)
    if refused is None:
        refused = refusals_now(principal, "publish", topics)
    for topic in topics:
        if topic in refused:
            raise refused[topic]
    if not notification.key.isprintable():
        raise wrong("key", "printable text")
    _check_rules(notification)
    return Draft(
        topics,
        encoded(notification.data),
        type=checked_type(notification.type),
        sender=principal.user or "",
        key=notification.key,
        ttl=notification.ttl,
        send_at=notification.send_at if notification.send_at and notification.send_at > timezone.now() else None,
        store=notification.store,
        exclude_users=frozenset(notification.exclude_users),
        claim=claim,
    )


def targets(to: Target) -> list[str]:
    """The topics that a target names; users that are named twice count once. Raises ApiError 400."""
    given = [name for name in to.__struct_fields__ if getattr(to, name) is not UNSET]
    if len(given) != 1:
        raise wrong("to", "exactly one of user, users, account, session, topic, all")
    (kind,) = given
    if kind == "all":
        if to.all is not True:
            raise wrong("to.all", "true")
        return ["all"]
    value = getattr(to, kind)
    if kind == "session" and value.isprintable() and "," not in value:
        return [topic_for("session", value)]
    keys = list(dict.fromkeys(value)) if kind == "users" else [value]
    if not all(valid_id(key) for key in keys):
        raise wrong(f"to.{kind}", ID_WANTED)
    return [f"{'user' if kind == 'users' else kind}.{key}" for key in keys]


def encoded(data: Any) -> bytes:
    """A message's data as JSON. Raises ApiError 413 beyond MESSAGE_MAX_BYTES."""
    text = msgspec.json.encode(data)
    if len(text) > settings.MESSAGE_MAX_BYTES:
        raise ApiError(
            413, "too_large", f"data: {settings.MESSAGE_MAX_BYTES} bytes at most (MESSAGE_MAX_BYTES): send a link."
        )
    return text


def checked_type(type: str) -> str:
    """Raises ApiError 400 for what cannot be a message's type."""
    if not (type.isprintable() and 1 <= len(type) <= TYPE_MAX):
        raise wrong("type", f"1-{TYPE_MAX} printable characters")
    return type


def _check_rules(notification: Notification) -> None:
    if notification.exclude_users and notification.to.account is UNSET and notification.to.all is UNSET:
        raise _refused("exclude_users", "goes with to.account or to.all only")
    if not all(valid_id(user) for user in notification.exclude_users):
        raise wrong("exclude_users", f"{ID_WANTED}, each")
    if not notification.store and (notification.ttl is not None or notification.send_at is not None):
        raise _refused("store", "false does not go with ttl or send_at: what is not stored goes out now")
    latest = timezone.now() + timedelta(days=settings.SCHEDULE_MAX_DAYS)
    if notification.send_at and notification.send_at > latest:
        raise _refused("send_at", f"at most {settings.SCHEDULE_MAX_DAYS} days ahead (SCHEDULE_MAX_DAYS)")


def _refused(field: str, why: str) -> ApiError:
    return ApiError(422, "refused", f"{field} {why}.", fields={field: why})
