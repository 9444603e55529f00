"""Operators' passwords, with a limit on guesses."""

from typing import Any

from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest

from accounts.errors import ApiError
from accounts.throttles import throttle_login


class ThrottledBackend(ModelBackend):
    """Django's own, but who tries too often (RATE_LOGIN) is told that the password is wrong, right or not."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **rest: Any
    ) -> User | None:
        if request is not None and password is not None:
            try:
                throttle_login(request.META.get("REMOTE_ADDR"))
            except ApiError as error:
                raise PermissionDenied from error
        return super().authenticate(request, username=username, password=password, **rest)
