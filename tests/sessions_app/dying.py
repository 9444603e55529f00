"""The Celery application with short leases."""

import os
from datetime import timedelta

import django

from config.celery import app

django.setup()

# isort: split
from sessions_app import dispatches  # noqa: E402

__all__ = ["app"]

dispatches.LEASE = timedelta(seconds=float(os.environ["FANFARE_LEASE_SECONDS"]))
