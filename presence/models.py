"""Who is there: one row for each user who ever was, and the last hundred times that it changed."""

from django.db import models
from django.utils import timezone


class Presence(models.Model):
    """A user as others see them. `seq` numbers the changes of `status`, `version` all changes.

    An invisible user is OFFLINE here. `since`: when the status began; `last_seen`: when the user was last ONLINE;
    `last_availability`, `last_text`: what others see of who is invisible, as it was before.
    """

    class Status(models.TextChoices):
        ONLINE = "ONLINE"
        OFFLINE = "OFFLINE"

    class Availability(models.TextChoices):
        AVAILABLE = "available"
        AWAY = "away"
        BUSY = "busy"
        INVISIBLE = "invisible"

    user = models.CharField(max_length=200, primary_key=True)
    status = models.CharField(max_length=7, choices=Status.choices, default=Status.OFFLINE)
    seq = models.BigIntegerField(default=0)
    version = models.BigIntegerField(default=0)
    since = models.DateTimeField(default=timezone.now)
    last_seen = models.DateTimeField(null=True)
    availability = models.CharField(max_length=9, choices=Availability.choices, default=Availability.AVAILABLE)
    text = models.CharField(max_length=140, blank=True)
    last_availability = models.CharField(max_length=9, choices=Availability.choices, default=Availability.AVAILABLE)
    last_text = models.CharField(max_length=140, blank=True)

    class Meta:
        indexes = [models.Index("status", "user", name="presence_status")]

    def __str__(self) -> str:
        return f"{self.user}: {self.status}"


class Transition(models.Model):
    """One change of a user's status, and why."""

    user = models.CharField(max_length=200)
    seq = models.BigIntegerField()
    status = models.CharField(max_length=7, choices=Presence.Status.choices)
    reason = models.CharField(max_length=10)
    at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint("user", "seq", name="transition_once")]

    def __str__(self) -> str:
        return f"{self.user} {self.seq}: {self.status}"
