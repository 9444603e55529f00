"""What the log forgets of a user who is erased, and of others."""

from collections.abc import Collection

from notifications.models import Marker, Message, Preference, Receipt, Task, Topic


def erase_user(user: str) -> bool:
    """Deletes their own topic with its messages, their receipts, and their name from what they have sent.

    One of USER_ERASERS: inside the transaction that erases the user.
    """
    theirs = [
        Topic.objects.filter(name=f"user.{user}"),
        *(model.objects.filter(user=user) for model in (Receipt, Marker, Preference, Task)),
    ]
    deleted = [rows.delete()[0] for rows in theirs]
    return any([*deleted, Message.objects.filter(sender=user).exclude(sender="").update(sender="")])


def forget(topics: Collection[str]) -> None:
    """Deletes topics with all their messages, also scheduled ones; for use in a transaction."""
    found = Topic.objects.filter(name__in=topics).order_by("name")
    if list(found.select_for_update()):  # Or something could come into them meanwhile.
        found.delete()
