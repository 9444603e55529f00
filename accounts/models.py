"""What is stored of those who call, and of the users whom applications name."""

from django.db import models
from django.utils import timezone
from uuid_utils.compat import uuid7

ID_MAX = 200


class Account(models.Model):
    """A group of users, by the id that applications give it: a customer, a team, a tenant."""

    id = models.CharField(primary_key=True, max_length=ID_MAX)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.id


class User(models.Model):
    """An end user, by the id that applications give them; known since first seen in a credential or as a target."""

    id = models.CharField(primary_key=True, max_length=ID_MAX)
    account = models.ForeignKey(Account, on_delete=models.SET_NULL, null=True, related_name="users")
    moved_at = models.DateTimeField(null=True)  # Credentials from before do not say where the user is.
    name = models.CharField(max_length=200, blank=True)
    attributes = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=timezone.now)

    def __str__(self) -> str:
        return self.id


class ApiKey(models.Model):
    """A service's credential. The key itself is shown once; only its SHA-256 is kept (it is 256 bits of randomness)."""

    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, unique=True)
    digest = models.CharField(max_length=64)
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix})"


class Token(models.Model):
    """A token that we have signed, so that it can be listed and revoked. The token itself is not kept."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user = models.CharField(max_length=ID_MAX, blank=True, db_index=True)
    account = models.CharField(max_length=ID_MAX, blank=True)
    subscribe = models.JSONField(default=list)
    publish = models.JSONField(default=list)
    created_at = models.DateTimeField(default=timezone.now)
    created_by = models.CharField(max_length=220)
    expires_at = models.DateTimeField(db_index=True)
    revoked_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return str(self.id)


class Ticket(models.Model):
    """Stands for a credential in one handshake. Only its digest is kept; it is deleted when it is used."""

    digest = models.CharField(primary_key=True, max_length=64)
    principal = models.TextField()  # JSON.
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return self.digest[:8]


class Revocation(models.Model):
    """Ends what `subject` names: a credential, all credentials of a user, or a connection.

    `issued_until`: what was issued later is not meant. Kept until `expires_at`, when nothing that it ends can be
    alive. Every process reads the new ones, by their ids.
    """

    subject = models.CharField(max_length=220)
    reason = models.CharField(max_length=20)
    issued_until = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"


class AuditEntry(models.Model):
    """Who changed what, when and from where."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    actor = models.CharField(max_length=220)
    action = models.CharField(max_length=50)
    subject = models.CharField(max_length=220, db_index=True)
    before = models.JSONField(null=True)
    after = models.JSONField(null=True)
    request_id = models.CharField(max_length=64, blank=True)
    address = models.CharField(max_length=45, blank=True)
    created_at = models.DateTimeField(default=timezone.now, db_index=True)

    class Meta:
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.subject}"


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
        db_table = "notifications_idempotencykey"  # Where it was first: rows stay, and so do older processes.
        constraints = [models.UniqueConstraint("principal", "route", "key", name="idempotency_once")]

    def __str__(self) -> str:
        return self.key
