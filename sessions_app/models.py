"""Browser sessions: who has one, how it gets its messages, and until when."""

from django.db import models
from django.utils import timezone


class BrowserSession(models.Model):
    """One browser of one user, as the application names it. It has a topic of its own in the log.

    Of transport `poll`, the log is its queue: `state` is how far it has been handed out (sessions_app.queue). Of `sqs`,
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
    queue_url = models.CharField(max_length=1000, blank=True)
    keys = models.TextField(blank=True, editable=False)  # Sealed, of a session with a queue outside.

    class Meta:
        indexes = [
            models.Index("user", "id", name="session_user"),
            models.Index("account", "id", name="session_account"),
            models.Index("expires_at", name="session_expiry"),
            models.Index("id", name="session_outside", condition=models.Q(transport="sqs")),
        ]

    def __str__(self) -> str:
        return self.id
