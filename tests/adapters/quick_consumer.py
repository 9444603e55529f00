"""`manage.py consume` whose place another one takes soon after a kill -9: `python -m tests.adapters.quick_consumer`."""

import os
from datetime import timedelta

import django
from django.core.management import call_command

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()

    from adapters.sources import checkpoints, momento

    checkpoints.LEASE = timedelta(seconds=0.6)
    momento.SHARE_SECONDS = 0.2
    call_command("consume")
