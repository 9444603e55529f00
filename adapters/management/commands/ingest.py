"""`manage.py ingest dead|redrive`."""

from argparse import ArgumentParser, ArgumentTypeError
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from adapters.ingest import redrive
from adapters.ingest_settings import EVENTS, sources
from adapters.models import FailedRecord


class Command(BaseCommand):
    help = "Shows the records from outside that could not be taken, and hands them in again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        dead = actions.add_parser("dead", help="show dead records and why they are")
        dead.add_argument("--source", help="only this source's")
        again = actions.add_parser("redrive", help="hand in dead records again, REDRIVES_PER_SECOND at most")
        again.add_argument("--source", required=True, help=f"whose: a name in INGEST_SOURCES, or {EVENTS.name}")
        again.add_argument("--id", action="append", default=[], help="only this one; can be given several times")
        again.add_argument("--since", type=_moment, help="only what died since then: 2026-01-31T12:00:00Z")

    def handle(self, *_args: Any, action: str, **options: Any) -> None:
        getattr(self, action)(options)

    def dead(self, options: dict[str, Any]) -> None:
        found = FailedRecord.objects.filter(dead_at__isnull=False).defer("body")
        if options["source"] is not None:
            found = found.filter(source=options["source"])
        for row in found.order_by("dead_at", "pk").iterator():
            self.stdout.write(f"{row.dead_at:%Y-%m-%d %H:%M:%S}  {row.source}  {row.record_id}  {row.error}")

    def redrive(self, options: dict[str, Any]) -> None:
        source = {EVENTS.name: EVENTS, **sources()}.get(options["source"])
        if source is None:
            raise CommandError(f"INGEST_SOURCES has no {options['source']!r}: {', '.join(sources()) or 'it is empty'}.")
        counts: Counter[str] = Counter(accepted=0, dead=0)
        for results in redrive(source, options["id"], options["since"]):
            counts.update(result.status for result in results)
            self.stdout.write(f"{counts['accepted']} accepted, {counts['dead']} still dead …")
        self.stdout.write(f"Done: {counts['accepted']} accepted, {counts['dead']} still dead.")


def _moment(text: str) -> datetime:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError("a time is written as 2026-01-31T12:00:00Z") from None
    return value if value.tzinfo else value.replace(tzinfo=UTC)
