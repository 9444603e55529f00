"""What the log forgets of a user who is erased."""

from notifications.models import IdempotencyKey, Marker, Message, Preference, Receipt, Task, Topic


def erase_user(user: str) -> None:
    """Deletes their own topic with its messages, their receipts, and their name from what they have sent.

    One of USER_ERASERS: inside the transaction that erases the user.
    """
    Topic.objects.filter(name=f"user.{user}").delete()
    Receipt.objects.filter(user=user).delete()
    Marker.objects.filter(user=user).delete()
    Preference.objects.filter(user=user).delete()
    Message.objects.filter(sender=user).exclude(sender="").update(sender="")
    Task.objects.filter(user=user).delete()
    IdempotencyKey.objects.filter(principal=f"user:{user}").delete()
