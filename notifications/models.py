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
    acknowledged = models.BigIntegerField(default=0)  # How often, where many get it; else there are rows.

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
    """What one user did with one message, or that it is not for this user.

    It counts before the user's marker; `unread`: read once, and taken back. `excluded`: the sender said so or, where
    there is a `reason`, it was withheld. `quiet`: it is in the inbox, and does not go out live.
    """

    # No index of its own: a plan might take it to look for one user among all who have read a broadcast.
    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="receipts", db_index=False)
    user = models.CharField(max_length=200)
    excluded = models.BooleanField(default=False)
    reason = models.CharField(max_length=20, blank=True)
    quiet = models.BooleanField(default=False)
    seen_at = models.DateTimeField(null=True)
    read_at = models.DateTimeField(null=True)
    archived_at = models.DateTimeField(null=True)
    unread = models.BooleanField(default=False)

    class Meta:
        constraints = [models.UniqueConstraint("message", "user", name="receipt_once")]
        indexes = [
            # With the message: whichever index a plan takes to look for one receipt, it finds one row.
            models.Index("user", "message", name="receipt_of_user"),
            models.Index("user", "message", name="receipt_unread", condition=Q(unread=True)),
            models.Index("user", "message", name="receipt_archived", condition=Q(archived_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{self.user}: {self.message_id}"


class Marker(models.Model):
    """Up to which offset a user has seen, read and archived all of a topic, and since when: one row for any number."""

    user = models.CharField(max_length=200)
    topic = models.ForeignKey(Topic, on_delete=models.CASCADE)
    seen_to = models.BigIntegerField(default=0)
    seen_at = models.DateTimeField(null=True)
    read_to = models.BigIntegerField(default=0)
    read_at = models.DateTimeField(null=True)
    archived_to = models.BigIntegerField(default=0)
    archived_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint("user", "topic", name="marker_once")]

    def __str__(self) -> str:
        return f"{self.user}: {self.topic_id}"


class Acknowledgement(models.Model):
    """A connection of its user has shown a message of the user's own topic; no connection: it was said over HTTP."""

    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="acknowledgements", db_index=False)
    connection = models.CharField(max_length=40, blank=True)
    at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint("message", "connection", name="acknowledgement_once")]

    def __str__(self) -> str:
        return f"{self.message_id}: {self.connection}"


class Preference(models.Model):
    """What a user wants of a type of messages; `*`: of those of which there is no other."""

    class Choice(models.TextChoices):
        LIVE = "live"
        INBOX = "inbox"  # To be found there, not live.
        OFF = "off"

    user = models.CharField(max_length=200)
    type = models.CharField(max_length=100)
    choice = models.CharField(max_length=5, choices=Choice.choices)

    class Meta:
        constraints = [models.UniqueConstraint("user", "type", name="preference_once")]

    def __str__(self) -> str:
        return f"{self.user}: {self.type} {self.choice}"


class Task(models.Model):
    """Background work for a user. Whoever holds `claim` runs it, until `lease_until` unless that is renewed.

    `run_at`: not before. `attempts` counts its starts, `deaths` the workers that died of it. `handed_at`: a queue
    outside has it, and there is no lease.
    """

    class State(models.TextChoices):
        QUEUED = "queued"
        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"
        CANCELLED = "cancelled"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.CharField(max_length=200)
    type = models.CharField(max_length=100)
    payload = models.TextField()  # JSON, as is the result.
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    progress = models.FloatField(default=0.0)
    note = models.CharField(max_length=200, blank=True)
    result = models.TextField(default="null")
    error = models.TextField(blank=True)
    attempts = models.IntegerField(default=0)
    deaths = models.IntegerField(default=0)
    claim = models.CharField(max_length=40, blank=True)
    lease_until = models.DateTimeField(null=True)
    handed_at = models.DateTimeField(null=True)
    run_at = models.DateTimeField(default=timezone.now)
    cancel_requested = models.BooleanField(default=False)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index("user", "id", name="task_user"),
            models.Index("state", "id", name="task_state"),
            models.Index("run_at", name="task_due", condition=Q(state="queued")),
        ]

    def __str__(self) -> str:
        return str(self.id)
