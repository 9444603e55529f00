"""`manage.py check_outside`: calls each destination, and says what is wrong and which setting to change."""

import asyncio
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from adapters import destinations
from adapters.base import Misconfigured
from adapters.models import Destination
from adapters.sealing import Unsealable


class Command(BaseCommand):
    help = "Calls each destination, and says what is wrong and which setting to change."

    def handle(self, *_args: Any, **_options: Any) -> None:
        rows = list(Destination.objects.filter(deleted_at=None).order_by("name"))
        wrong = 0
        for number, row in enumerate(rows, 1):
            self.stdout.write(f"[{number}/{len(rows)}] {row.name} ({row.kind}) ", ending="")
            self.stdout.flush()
            try:
                found = asyncio.run(_check(row)) if row.enabled else f"off. {row.disabled_reason}"
            except Misconfigured as error:
                wrong += 1
                found = self.style.ERROR(f"wrong: {error}")
            except Exception as error:  # Whatever it is: the others are called, too.
                wrong += 1
                found = self.style.ERROR(f"wrong: {type(error).__name__}: {error}")
            self.stdout.write(found)
        if wrong:
            raise CommandError(f"{wrong} of {len(rows)} destinations do not work.")
        self.stdout.write(
            f"{len(rows)} destinations." if rows else "There are no destinations: POST /api/destinations."
        )


async def _check(row: Destination) -> str:
    """Raises Misconfigured."""
    try:
        adapter = destinations.adapter(row)
    except KeyError:
        raise Misconfigured(f"There is no adapter for {row.kind!r} (ADAPTERS).") from None
    except (Unsealable, ImportError) as error:
        raise Misconfigured(str(error)) from error
    try:
        async with asyncio.timeout(2 * settings.DELIVERY_TIMEOUT):
            return await adapter.check()
    except TimeoutError:
        raise Misconfigured("It does not answer (DELIVERY_TIMEOUT).") from None
    finally:
        await adapter.close()
