"""What the log forgets of a user who is erased."""

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
