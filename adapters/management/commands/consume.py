"""`manage.py consume [source …]`."""

import asyncio
import signal
from argparse import ArgumentParser
from collections.abc import Collection
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from adapters.ingest_settings import CONSUMED, Source, sources
from adapters.sources.consuming import consume


class Command(BaseCommand):
    help = "Takes in the records of queues, streams and topics that INGEST_SOURCES names, until it is told to stop."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("sources", nargs="*", metavar="source", help="only these; without any: all")

    def handle(self, *_args: Any, **options: Any) -> None:
        asyncio.run(_consume_until_stopped(_chosen(options["sources"])))


def _chosen(names: Collection[str]) -> list[Source]:
    """Raises CommandError."""
    known = {source.name: source for source in sources().values() if source.consumed}
    for name in names:
        if name not in known:
            raise CommandError(f"INGEST_SOURCES has no {name!r} to be consumed: {', '.join(known) or 'it has none'}.")
    found = [known[name] for name in dict.fromkeys(names)] if names else list(known.values())
    if not found:
        raise CommandError(f"There is nothing to consume: no source has one of {', '.join(CONSUMED)} (INGEST_SOURCES).")
    return found


async def _consume_until_stopped(chosen: Collection[Source]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await consume(chosen, stopping)
