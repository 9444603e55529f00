"""Fixtures of the leaderboards' tests."""

from tests.presence.redis import redis

__all__ = ["redis"]
