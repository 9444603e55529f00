from django.apps import AppConfig
from django.db.models.signals import post_migrate


class AdaptersConfig(AppConfig):
    name = "adapters"

    def ready(self) -> None:
        from adapters import (
            checks,  # noqa: F401 (registers itself; needs the settings)
            settings_destinations,
        )

        post_migrate.connect(settings_destinations.ensure, sender=self)
