"""`manage.py apikey create|list|revoke`."""

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from accounts import api_keys
from accounts.models import ApiKey
from accounts.principals import SCOPES

MAX_DAYS = 36_500
MAX_NAME = 100


class Command(BaseCommand):
    help = "Makes, lists and ends the API keys that services call with."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        create = actions.add_parser("create", help="make a key and print it, once")
        create.add_argument("name", help="what or who will hold it")
        create.add_argument("--scopes", nargs="+", default=sorted(SCOPES), metavar="AREA:VERB", help="default: all")
        create.add_argument("--days", type=int, help="days until it expires; default: never")
        actions.add_parser("list", help="show all keys, without their secrets")
        revoke = actions.add_parser("revoke", help="end a key")
        revoke.add_argument("prefix", help="as `list` shows it")

    def handle(self, *_args: Any, action: str, **options: Any) -> None:
        getattr(self, action)(options)

    def create(self, options: dict[str, Any]) -> None:
        days = options["days"]
        if days is not None and not 1 <= days <= MAX_DAYS:
            raise CommandError(f"--days takes a whole number from 1 to {MAX_DAYS}.")
        if not 1 <= len(options["name"]) <= MAX_NAME:
            raise CommandError(f"A name has 1-{MAX_NAME} characters.")
        try:
            _, text = api_keys.create(
                options["name"], options["scopes"], timezone.now() + timedelta(days=days) if days else None
            )
        except ValueError as error:
            raise CommandError(f"{error}. The scopes are: {', '.join(sorted(SCOPES))}") from error
        self.stdout.write(text)

    def list(self, _options: dict[str, Any]) -> None:
        for key in ApiKey.objects.order_by("created_at"):
            state = "revoked" if key.revoked_at else "alive"
            if key.expires_at and key.expires_at <= timezone.now():
                state = "expired"
            used = f"last used {key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"
            self.stdout.write(f"{key.prefix}  {state:8} {key.name}  {used}  {' '.join(key.scopes)}")

    def revoke(self, options: dict[str, Any]) -> None:
        if not api_keys.revoke(options["prefix"]):
            raise CommandError("No key alive has this prefix: see `manage.py apikey list`.")
        self.stdout.write("Revoked.")
