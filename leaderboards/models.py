"""The record of every board: its settings, its windows, the best of everybody in each, and how that came about."""

import secrets

from django.db import models
from django.db.models import Q
from django.utils.timezone import now


def new_epoch() -> str:
    return secrets.token_urlsafe(9)


class Board(models.Model):
    """A leaderboard and its rules. Those of `schedules` are opened side by side; the first is the board's main one."""

    class Order(models.TextChoices):
        DESC = "desc"
        ASC = "asc"

    class Operator(models.TextChoices):
        BEST = "best"
        SET = "set"
        INCR = "incr"
        DECR = "decr"

    class Submit(models.TextChoices):
        SERVICE = "service"
        SELF = "self"

    class Read(models.TextChoices):
        PUBLIC = "public"
        USER = "user"
        SERVICE = "service"

    name = models.CharField(max_length=200)
    order = models.CharField(max_length=4, choices=Order.choices, default=Order.DESC)
    operator = models.CharField(max_length=4, choices=Operator.choices, default=Operator.BEST)
    schedules = models.JSONField(default=list)  # Never empty: ["none"] is one window without an end.
    timezone = models.CharField(max_length=64, default="UTC")
    retention = models.PositiveIntegerField(default=90)  # Days for which closed windows are kept.
    entry_limit = models.PositiveIntegerField(null=True)  # The best so many are kept.
    min_score = models.FloatField(null=True)
    max_score = models.FloatField(null=True)
    max_step = models.FloatField(null=True)
    rate = models.CharField(max_length=20, blank=True)  # Of one owner; what comes faster waits for review.
    submit = models.CharField(max_length=7, choices=Submit.choices, default=Submit.SERVICE)
    read = models.CharField(max_length=7, choices=Read.choices, default=Read.USER)
    ranking = models.CharField(max_length=50, default="redis")
    metadata = models.JSONField(default=dict)
    created_at = models.DateTimeField(default=now)
    deleted_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint("name", name="board_name", condition=Q(deleted_at=None))]

    def __str__(self) -> str:
        return self.name


class Window(models.Model):
    """One period of a board. The lock on its row makes the order of `seq` the order of commits.

    `seq` numbers the changes of its ranking. `epoch` names this numbering: an index of another one is not ours.
    Once `closed_at`, nothing in it changes; once `archived_at`, each entry has its final rank.
    """

    board = models.ForeignKey(Board, on_delete=models.CASCADE)
    schedule = models.CharField(max_length=100)
    label = models.CharField(max_length=40)
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField(null=True)
    seq = models.BigIntegerField(default=0)
    entries = models.BigIntegerField(default=0)  # That are ranked.
    epoch = models.CharField(max_length=16, default=new_epoch)
    closed_at = models.DateTimeField(null=True)
    archived_at = models.DateTimeField(null=True)
    leased_until = models.DateTimeField(null=True)  # By who archives it.

    class Meta:
        constraints = [
            models.UniqueConstraint("board", "label", name="window_label"),
            models.UniqueConstraint("board", "schedule", name="window_open", condition=Q(closed_at=None)),
        ]
        indexes = [
            models.Index("ends_at", name="window_due", condition=Q(closed_at=None, ends_at__isnull=False)),
            models.Index("closed_at", name="window_closed", condition=Q(closed_at__isnull=False)),
            models.Index("closed_at", name="window_unarchived", condition=Q(closed_at__isnull=False, archived_at=None)),
        ]

    def __str__(self) -> str:
        return f"{self.board} {self.label}"


class Owner(models.Model):
    """Whose scores they are, as the application names them: the rows that there are many of have a number instead."""

    name = models.CharField(max_length=200, unique=True)

    def __str__(self) -> str:
        return self.name


class Entry(models.Model):
    """What an owner has in a window. `place` is the `seq` with which they got there: first come, first.

    No index here has a column that a submission changes.
    """

    pk = models.CompositePrimaryKey("window_id", "owner_id")
    window = models.ForeignKey(Window, on_delete=models.CASCADE, db_index=False)
    owner = models.ForeignKey(Owner, on_delete=models.CASCADE)
    score = models.FloatField()
    subscore = models.FloatField(default=0)
    place = models.BigIntegerField()
    hidden = models.BooleanField(default=False)
    metadata = models.TextField(blank=True)  # JSON, as it came.
    rank = models.BigIntegerField(null=True)  # In an archived window.

    class Meta:
        indexes = [models.Index("window", "rank", name="entry_rank", condition=Q(rank__isnull=False))]

    def __str__(self) -> str:
        return f"{self.owner_id}: {self.score}"


class Submission(models.Model):
    """What somebody did to an owner's entry in a window, and what the entry was then. Rows are only ever added.

    With a `seq` it changed the ranking: to (score, subscore, place) or, without a `place`, by leaving it.
    """

    class Operator(models.TextChoices):
        BEST = "best"
        SET = "set"
        INCR = "incr"
        DECR = "decr"
        REMOVE = "remove"
        HIDE = "hide"
        UNHIDE = "unhide"

    class State(models.TextChoices):
        ACCEPTED = "accepted"
        HELD = "held"  # It waits for somebody to review it.
        APPROVED = "approved"  # It was held, and has been submitted since.
        REJECTED = "rejected"

    # No constraint: who adds rows holds the window's lock, and to look it up for each costs a tenth of the time.
    window = models.ForeignKey(Window, on_delete=models.CASCADE, db_index=False, db_constraint=False)
    seq = models.BigIntegerField(null=True)
    owner = models.ForeignKey(Owner, on_delete=models.CASCADE)
    operator = models.CharField(max_length=6, choices=Operator.choices)
    given = models.FloatField(null=True)
    given_sub = models.FloatField(null=True)
    score = models.FloatField(null=True)
    subscore = models.FloatField(null=True)
    place = models.BigIntegerField(null=True)
    state = models.CharField(max_length=8, choices=State.choices, default=State.ACCEPTED)
    reason = models.CharField(max_length=20, blank=True)  # Why it is held: `max_step` or `rate`.
    metadata = models.TextField(blank=True)  # Of one that is held.
    actor = models.CharField(max_length=220)
    at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint("window", "seq", name="submission_seq")]  # Any number of them without.
        indexes = [
            models.Index("at", name="submission_at"),
            models.Index("window", "id", name="submission_held", condition=Q(state="held")),
        ]

    def __str__(self) -> str:
        return f"{self.window_id} {self.seq}: {self.operator}"
