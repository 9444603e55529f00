"""`manage.py rotate_epochs`: after a restore from a backup."""

from typing import Any

from django.core.management.base import BaseCommand

from notifications.retention import rotate_epochs


class Command(BaseCommand):
    help = "Renames the numbering of every topic, so that clients reload after the database was restored."

    def handle(self, *_args: Any, **_options: Any) -> None:
        self.stdout.write(f"{rotate_epochs()} topics have a new epoch.")
