"""Browser sessions: who has one, how it gets its messages, and until when; and messages on their way to queues."""

from django.db import models
from django.db.models import Q
from django.utils import timezone
from uuid_utils.compat import uuid7


class BrowserSession(models.Model):
    """One browser of one user, as the application names it. It has a topic of its own in the log.

    Of transport `poll`, the log is its queue: `state` is how far it has been handed out (sessions_app.state). Of `sqs`,
    it has a queue outside. It ends at `expires_at` unless it is renewed or receives before.
    """

    class Transport(models.TextChoices):
        POLL = "poll"
        SQS = "sqs"

    id = models.CharField(max_length=256, primary_key=True)
    topic = models.CharField(max_length=220, unique=True)
    user = models.CharField(max_length=200)
    account = models.CharField(max_length=200, blank=True)
    transport = models.CharField(max_length=4, choices=Transport.choices)
    retention = models.PositiveIntegerField()  # Seconds for which a message waits.
    address = models.CharField(max_length=45, blank=True)
    agent = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    state = models.TextField(blank=True)  # JSON, of a session that polls.
    queue_name = models.CharField(max_length=80, blank=True)  # Known before there is a queue.
    queue_url = models.CharField(max_length=1000, blank=True)
    key = models.TextField(blank=True, editable=False)  # The newest, sealed; of a session with a queue outside.

    class Meta:
        indexes = [
            models.Index("user", "id", name="session_user"),
            models.Index("account", "id", name="session_account"),
            models.Index("expires_at", name="session_expiry"),
            models.Index("id", name="session_outside", condition=Q(transport="sqs")),
            models.Index("queue_name", name="session_queue", condition=~Q(queue_name="")),
        ]

    def __str__(self) -> str:
        return self.id


class Dispatch(models.Model):
    """A message that is owed to the queues of the sessions that hear its topic.

    `notice` is there where the event is not in the log. Once its sessions were looked up (`spread_at`), chunks of them
    are worked through; it is finished when none is left, and starts again for a session that comes late.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)  # The message's.
    topic = models.CharField(max_length=220)
    offset = models.BigIntegerField(null=True)
    notice = models.TextField(blank=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()  # What has not been sent by then has failed.
    spread_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    sent = models.PositiveIntegerField(default=0)
    gone = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name_plural = "dispatches"
        indexes = [
            models.Index("id", name="dispatch_new", condition=Q(spread_at=None)),
            models.Index("topic", name="dispatch_open", condition=Q(finished_at=None)),
            models.Index("finished_at", name="dispatch_finished"),
        ]

    def __str__(self) -> str:
        return f"{self.topic}: {self.pk}"


class Chunk(models.Model):
    """Sessions to which a dispatch has still to go. Who holds `claim` sends, until `claimed_until` unless renewed."""

    dispatch = models.ForeignKey(Dispatch, on_delete=models.CASCADE)
    sessions = models.JSONField()  # Their ids.
    size = models.PositiveIntegerField()  # How many.
    attempts = models.PositiveIntegerField(default=0)
    due_at = models.DateTimeField()
    claim = models.CharField(max_length=40, blank=True)
    claimed_until = models.DateTimeField(null=True)

    class Meta:
        indexes = [models.Index("due_at", "id", name="chunk_due")]

    def __str__(self) -> str:
        return f"{self.dispatch_id}: {self.size}"
