"""What leaves the log for good: expired, recalled and old messages."""

from collections import defaultdict
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from notifications.models import Message, Topic, new_epoch

ROWS_AT_ONCE = 1000
MAX_ROUNDS = 1000
RECALLED_KEPT = timedelta(hours=1)  # So that operators can look up what was recalled just now.


def purge() -> int:
    """Deletes what nobody can see any more, in small transactions -> how many messages."""
    now = timezone.now()
    gone = _delete_all(Message.objects.filter(expires_at__lte=now))
    gone += _delete_all(Message.objects.filter(recalled_at__lte=now - RECALLED_KEPT))
    return gone + _delete_old()


def _delete_all(found: QuerySet[Message]) -> int:
    gone = 0
    for _ in range(MAX_ROUNDS):
        ids = list(found.values_list("pk", flat=True)[:ROWS_AT_ONCE])
        with transaction.atomic():
            Message.objects.filter(pk__in=ids).delete()
        gone += len(ids)
        if len(ids) < ROWS_AT_ONCE:
            break
    return gone


def _delete_old() -> int:
    """Ends retention: moves each topic's tail behind its old messages, then deletes them."""
    cutoff = timezone.now() - timedelta(days=settings.RETENTION_DAYS)
    # Ids begin with the time of acceptance, so the primary key finds the old ones; a scheduled message may be
    # younger than its id.
    oldest_kept = UUID(int=int(cutoff.timestamp() * 1000) << 80)
    old = Q(pk__lt=oldest_kept, created_at__lt=cutoff, offset__isnull=False)
    gone = 0
    for _ in range(MAX_ROUNDS):
        rows = list(Message.objects.filter(old).order_by("pk").values_list("pk", "topic_id", "offset")[:ROWS_AT_ONCE])
        tails: dict[int, int] = defaultdict(int)
        for _pk, topic_id, offset in rows:
            tails[topic_id] = max(tails[topic_id], (offset or 0) + 1)
        with transaction.atomic():
            # Locked in the order in which `accept` locks them, or the two deadlock.
            topics = list(Topic.objects.filter(pk__in=tails).select_for_update().order_by("name"))
            for topic in topics:
                topic.tail = max(topic.tail, tails[topic.pk])
            Topic.objects.bulk_update(topics, ["tail"])
            Message.objects.filter(pk__in=[pk for pk, _topic_id, _offset in rows]).delete()
        gone += len(rows)
        if len(rows) < ROWS_AT_ONCE:
            break
    return gone


def rotate_epochs() -> int:
    """Renames every numbering, after a restore from a backup: clients reload instead of missing silently."""
    rows = Topic.objects.all()
    for topic in rows.iterator():
        Topic.objects.filter(pk=topic.pk).update(epoch=new_epoch())
    return rows.count()
