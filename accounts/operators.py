"""Operators sign in once by a link that the console prints."""

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core import signing
from django.urls import reverse
from django.utils import timezone

LINK_SECONDS = 3600
_SALT = "accounts.operators.login"


def login_link(username: str, base_url: str) -> str:
    """A link that signs the operator in once, within LINK_SECONDS. It dies with the operator's next login."""
    user = get_user_model().objects.get_by_natural_key(username)
    token = signing.dumps([user.pk, _state(user)], salt=_SALT)
    return base_url.rstrip("/") + reverse("accounts:login", args=[token])


def redeem(token: str) -> User | None:
    """The operator that the link was made for, once; None when it is forged, old or used."""
    try:
        pk, state = signing.loads(token, salt=_SALT, max_age=LINK_SECONDS)
    except signing.BadSignature:
        return None
    user = get_user_model().objects.filter(pk=pk, is_active=True, is_staff=True).first()
    if user is None or _state(user) != state:
        return None
    # Of two that redeem it at once, only the one whose update finds the old time gets in.
    used = get_user_model().objects.filter(pk=pk, last_login=user.last_login).update(last_login=timezone.now())
    return user if used == 1 else None


def _state(user: User) -> str:
    return user.last_login.isoformat() if user.last_login else ""
