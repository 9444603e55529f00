"""`manage.py momento init`: the caches that topics, boards and Django need."""

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from adapters.base import Misconfigured
from adapters.momento.clients import Failed, calls


class Command(BaseCommand):
    help = "init: makes the caches of MOMENTO_CACHES that are not there yet."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["init"])

    def handle(self, *_args: Any, **_options: Any) -> None:
        """With the key that may do more, where there are two."""
        try:
            momento = calls("MOMENTO_TOKEN_KEY" if settings.MOMENTO_TOKEN_KEY else "MOMENTO_API_KEY")
            from momento_wire_types import controlclient_pb2 as wire

            for name in settings.MOMENTO_CACHES:
                try:
                    momento.control("CreateCache", wire._CreateCacheRequest(cache_name=name), name)
                except Failed as error:
                    if error.code != "ALREADY_EXISTS":
                        raise
                    self.stdout.write(f"{name} is there already.")
                else:
                    self.stdout.write(f"{name} is made.")
        except (Failed, Misconfigured) as error:
            raise CommandError(str(error)) from None
