"""The durable log: topics with their heads, messages with their offsets."""

import secrets

from django.db import models
from django.db.models import Q
from django.utils import timezone
from uuid_utils.compat import uuid7


def new_epoch() -> str:
    return secrets.token_urlsafe(9)


class Topic(models.Model):
    """A named stream. The lock on its row makes the order of offsets the order of commits."""

    name = models.CharField(max_length=220, unique=True)
    epoch = models.CharField(max_length=16, default=new_epoch)
    head = models.BigIntegerField(default=0)
    tail = models.BigIntegerField(default=1)

    def __str__(self) -> str:
        return self.name


class Message(models.Model):
    """One entry of a topic. `offset` is null until a scheduled message is due; ids sort by the time of acceptance."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    topic = models.ForeignKey(Topic, on_delete=models.CASCADE)
    offset = models.BigIntegerField(null=True)
    type = models.CharField(max_length=100)
    data = models.TextField()  # JSON, encoded once: it goes out as it is.
    sender = models.CharField(max_length=200, blank=True)
    key = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)  # When it entered the log.
    send_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    recalled_at = models.DateTimeField(null=True)
    has_exclusions = models.BooleanField(default=False)

    class Meta:
        constraints = [models.UniqueConstraint("topic", "offset", name="message_offset")]
        indexes = [
            models.Index("topic", "created_at", "offset", name="message_time"),
            models.Index("key", name="message_key", condition=~Q(key="")),
            models.Index("sender", name="message_sender", condition=~Q(sender="")),
            models.Index("send_at", name="message_due", condition=Q(offset=None)),
            models.Index("expires_at", name="message_expiry", condition=Q(expires_at__isnull=False)),
            models.Index("recalled_at", name="message_recall", condition=Q(recalled_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return str(self.id)


class Receipt(models.Model):
    """What one user did with one message, or that it is not for this user."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE)
    user = models.CharField(max_length=200)
    excluded = models.BooleanField(default=False)

    class Meta:
        constraints = [models.UniqueConstraint("message", "user", name="receipt_once")]
        indexes = [models.Index("user", name="receipt_user")]

    def __str__(self) -> str:
        return f"{self.user}: {self.message_id}"


class IdempotencyKey(models.Model):
    """One request that must not take effect twice, with the reply that its repetition gets."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    principal = models.CharField(max_length=220)
    route = models.CharField(max_length=100)
    key = models.CharField(max_length=200)
    body_digest = models.CharField(max_length=64)
    reply = models.TextField(default="")
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        constraints = [models.UniqueConstraint("principal", "route", "key", name="idempotency_once")]

    def __str__(self) -> str:
        return self.key
