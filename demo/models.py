"""The table of `/demo/writethrough/`, and what is owed to the cache and the topic that follow it."""

from django.db import models
from uuid_utils.compat import uuid7


class Weather(models.Model):
    location = models.CharField(max_length=60, primary_key=True)
    max_temp = models.IntegerField()
    min_temp = models.IntegerField()
    rain = models.IntegerField()  # Per cent.
    ttl = models.IntegerField(default=300)  # Seconds in the cache.

    class Meta:
        verbose_name_plural = "weather"

    def __str__(self) -> str:
        return self.location


class OwedEvent(models.Model):
    """An event of EventBridge, written in the transaction of the change that it tells of."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    body = models.TextField()

    def __str__(self) -> str:
        return str(self.id)
