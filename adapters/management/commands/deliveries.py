"""`manage.py deliveries status|list|redrive`."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from adapters import dead_letters
from adapters.metrics import tallies
from adapters.models import Delivery, Destination

LISTED = 50


class Command(BaseCommand):
    help = "Shows what destinations are owed, and sends dead letters again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("status", help="each destination with its counts")
        listing = actions.add_parser("list", help=f"the newest {LISTED} dead letters, with their reasons")
        listing.add_argument("--destination", help="only this one's, by its name")
        redrive = actions.add_parser("redrive", help="send dead letters again; what is not dead stays as it is")
        redrive.add_argument("ids", nargs="*", type=int, help="these; without any: all of --destination")
        redrive.add_argument("--destination", help="all of this one's, by its name")
        redrive.add_argument(
            "--since", type=_time, metavar="TIME", help="only those that died since, as 2026-01-31T12:00Z"
        )

    def handle(self, *_args: Any, action: str, **options: Any) -> None:
        getattr(self, action)(options)

    def status(self, _options: dict[str, Any]) -> None:
        columns = ("accepted", "pending", "delivered", "dead", "expired", "failures")
        self.stdout.write(f"{'destination':30} " + " ".join(f"{name:>10}" for name in columns))
        for row in tallies():
            self.stdout.write(f"{row.name:30} " + " ".join(f"{getattr(row, name):>10}" for name in columns))

    def list(self, options: dict[str, Any]) -> None:
        found = Delivery.objects.filter(state=Delivery.State.DEAD).select_related("destination")
        if options["destination"]:
            found = found.filter(destination=_named(options["destination"]))
        for row in found.order_by("-id")[:LISTED]:
            self.stdout.write(
                f"{row.pk:>10} {row.finished_at:%Y-%m-%d %H:%M} {row.destination.name}: {row.event} {row.key}, "
                f"{row.attempts} attempts: {row.error} {row.response[:100]}".rstrip()
            )

    def redrive(self, options: dict[str, Any]) -> None:
        if bool(options["ids"]) == bool(options["destination"]):
            raise CommandError("Name either ids, as `list` shows them, or --destination.")
        destination = _named(options["destination"]) if options["destination"] else None
        redriven = dead_letters.redrive(
            None, ids=options["ids"] or None, destination=destination, since=options["since"]
        )
        self.stdout.write(f"{redriven} dead letters are sent again (REDRIVES_PER_SECOND).")


def _named(name: str) -> UUID:
    row = Destination.objects.filter(name=name, deleted_at=None).first()
    if row is None:
        raise CommandError(f"There is no destination {name!r}: see `manage.py deliveries status`.")
    return row.pk


def _time(text: str) -> datetime:
    time = parse_datetime(text)
    if time is None:
        raise ValueError(text)
    return time if time.tzinfo else timezone.make_aware(time)
