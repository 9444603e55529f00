"""`manage.py loginlink`: a one-time link into the admin."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError

from accounts.operators import login_link


class Command(BaseCommand):
    help = "Prints a link that signs an operator in once, within an hour."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("username", nargs="?", default="operator")
        parser.add_argument("--url", default=f"http://{settings.HOST}:{settings.PORT}", help="the service's address")

    def handle(self, *_args: Any, username: str, url: str, **_options: Any) -> None:
        try:
            self.stdout.write(login_link(username, url))
        except get_user_model().DoesNotExist as error:
            raise CommandError(f"There is no operator {username!r}: `manage.py createsuperuser` makes one.") from error
