"""What leaves: destinations outside, and what is owed to them. What comes in and cannot be taken is kept here too."""

from django.db import models
from django.db.models import Q
from django.utils import timezone
from uuid_utils.compat import uuid7


class Destination(models.Model):
    """An address outside, and what it wants: kinds of events, topics by prefix, types. An empty list wants all.

    Whoever holds `claim` serves it, until `claimed_until` unless that is renewed. `failures` counts those in a row;
    after too many nothing is sent before `paused_until`.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=100, unique=True)
    kind = models.CharField(max_length=20)
    address = models.CharField(max_length=2000, blank=True)
    options = models.JSONField(default=dict)
    sealed = models.TextField(default="", editable=False)  # Its secrets, and the options that are secret.
    events = models.JSONField(default=list)
    topics = models.JSONField(default=list)
    types = models.JSONField(default=list)
    enabled = models.BooleanField(default=True)
    disabled_reason = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    changed_at = models.DateTimeField(default=timezone.now)
    deleted_at = models.DateTimeField(null=True)  # It goes when what it was owed is gone.
    failures = models.IntegerField(default=0)
    failing_since = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=500, blank=True)
    paused_until = models.DateTimeField(null=True)
    redriven_until = models.DateTimeField(null=True)  # Dead letters are due until then: further ones come after.
    claim = models.CharField(max_length=40, blank=True)
    claimed_until = models.DateTimeField(null=True)
    # How many deliveries have come to each end, moved in the transaction that ends them; `purged` are gone since.
    delivered = models.BigIntegerField(default=0)
    dead = models.BigIntegerField(default=0)
    expired = models.BigIntegerField(default=0)
    purged = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return self.name


class Delivery(models.Model):
    """One event owed to one destination. A dead one was given up on, for its `error`; it can be owed again.

    Ids grow with each insert: what shares a key is written under one lock, so its ids are in its order. `due_at`: not
    before. `owed_since`: when the time began after which it is given up on.
    """

    class State(models.TextChoices):
        PENDING = "pending"
        DELIVERED = "delivered"
        DEAD = "dead"
        EXPIRED = "expired"  # Nobody wanted it any more: the message's ttl was over first.

    id = models.BigAutoField(primary_key=True)
    # No constraint: an event that is accepted must not fail because its destination has just been deleted.
    destination = models.ForeignKey(
        Destination, on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="deliveries"
    )
    event_id = models.UUIDField()
    event = models.CharField(max_length=30)
    key = models.CharField(max_length=250)
    body = models.TextField()  # JSON, encoded once: it goes out as it is.
    state = models.CharField(max_length=9, choices=State.choices, default=State.PENDING)
    attempts = models.IntegerField(default=0)
    due_at = models.DateTimeField(default=timezone.now)
    owed_since = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=500, blank=True)
    response = models.CharField(max_length=1000, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        verbose_name_plural = "deliveries"
        indexes = [
            models.Index("destination", "due_at", "id", name="delivery_due", condition=Q(state="pending")),
            models.Index("destination", "state", "id", name="delivery_state"),
            models.Index("event_id", name="delivery_event"),
            models.Index("key", name="delivery_key"),
            models.Index("finished_at", name="delivery_finished", condition=~Q(state="pending")),
        ]

    def __str__(self) -> str:
        return f"{self.event_id} to {self.destination_id}"


class QueuedEvent(models.Model):
    """An event in a destination of kind `table`, until whoever fetches it says that it is done.

    Not visible before `visible_at`; `receipt` is the one of the last time that it was fetched.
    """

    id = models.BigAutoField(primary_key=True)
    destination = models.ForeignKey(Destination, on_delete=models.CASCADE, db_index=False)
    event_id = models.UUIDField()
    key = models.CharField(max_length=250)
    body = models.TextField()
    received = models.IntegerField(default=0)
    receipt = models.CharField(max_length=40, blank=True)
    visible_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint("destination", "event_id", name="queued_event_once")]
        indexes = [
            models.Index("destination", "visible_at", "id", name="queued_event_visible"),
            models.Index("key", name="queued_event_key"),
            models.Index("expires_at", name="queued_event_expiry"),
        ]

    def __str__(self) -> str:
        return str(self.event_id)


class FailedRecord(models.Model):
    """A record from outside that could not be taken, and why. After too many tries it is dead, and can be redriven."""

    source = models.CharField(max_length=100)
    record_id = models.CharField(max_length=200)
    kind = models.CharField(max_length=30)
    body = models.TextField()
    tries = models.IntegerField(default=0)
    error = models.CharField(max_length=500)
    first_at = models.DateTimeField(default=timezone.now)
    last_at = models.DateTimeField(default=timezone.now)
    dead_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint("source", "record_id", name="failed_record_once")]
        indexes = [models.Index("last_at", name="failed_record_age")]

    def __str__(self) -> str:
        return f"{self.source}: {self.record_id}"


class Checkpoint(models.Model):
    """How far one part of a source (a shard, a topic) has been taken: all up to `position` is stored, or dead.

    Whoever holds `claim` reads the part, until `claimed_until` unless that is renewed. An `ended` part has no more.
    """

    source = models.CharField(max_length=100)
    part = models.CharField(max_length=300)
    position = models.CharField(max_length=200, blank=True)  # Empty: nothing has been taken yet.
    ended = models.BooleanField(default=False)
    changed_at = models.DateTimeField(default=timezone.now)
    claim = models.CharField(max_length=40, blank=True)
    claimed_until = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint("source", "part", name="checkpoint_once")]

    def __str__(self) -> str:
        return f"{self.source}: {self.part}"
