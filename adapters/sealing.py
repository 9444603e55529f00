"""Secrets of destinations, as the database keeps them: sealed with SECRETS_KEY."""

import base64
import hashlib
from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class Unsealable(Exception):
    """The text was sealed with another key."""


def seal(text: str) -> str:
    return _seals().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """Raises Unsealable."""
    try:
        return _seals().decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise Unsealable("SECRETS_KEY is not the one with which this secret was sealed.") from error


def _seals() -> MultiFernet:
    return _seals_of(settings.SECRETS_KEY)


@cache
def _seals_of(text: str) -> MultiFernet:
    """The first key seals, each unseals."""
    keys = [key.strip() for key in text.split(",")]
    return MultiFernet([Fernet(base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest())) for key in keys])
