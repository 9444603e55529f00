"""Receiving and acknowledging, for sessions that poll."""

from collections.abc import Sequence

from sessions_app.models import BrowserSession


def acknowledge(session: BrowserSession, receipts: Sequence[str]) -> list[str]:
    """Is done with these messages -> the receipts that held."""
    raise NotImplementedError
