"""The Celery application: `celery -A config worker`, `celery -A config beat`."""

import os

from celery import Celery
from celery.signals import setup_logging

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("fanfare")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.set_default()  # Or only the thread that imports this has it as Celery's current one.


@setup_logging.connect
def keep_our_logging(**_: object) -> None:
    """Celery leaves logging alone when this signal has a receiver; the settings have configured it."""
