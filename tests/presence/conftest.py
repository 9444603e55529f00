"""Fixtures of presence's tests."""

from tests.presence.redis import redis

__all__ = ["redis"]
