"""`manage.py sessions purge|cleanup`."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from adapters.aws import clients
from adapters.base import Misconfigured
from sessions_app import queues, sessions


class Command(BaseCommand):
    help = "Ends sessions that have expired, and deletes queues that belong to none; beat does the same."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("purge", help="end sessions that have expired")
        actions.add_parser("cleanup", help="the same, and delete queues of ours that no session names")

    def handle(self, *_args: Any, action: str, **_options: Any) -> None:
        self.stdout.write(f"{sessions.purge()} sessions have ended.")
        if action == "cleanup":
            if not settings.SESSION_ROLE_ARN:
                raise CommandError("There are no queues: SESSION_ROLE_ARN is not set.")
            self.stdout.write(f"{_delete_orphans()} queues are deleted.")


def _delete_orphans() -> int:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return sessions.delete_orphans()
    except (BotoCoreError, ClientError, Misconfigured) as error:
        raise CommandError(clients.failure(error, f"list and delete {queues.prefix()}*").error) from None
