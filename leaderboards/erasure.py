"""What boards forget of a user who is erased."""

from functools import partial

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from leaderboards import indexing
from leaderboards.book import Book
from leaderboards.models import Entry, Owner, Submission, Window


def erase_user(user: str) -> bool:
    """Deletes the entries of the owner of this name, what was submitted for them, and that there was such an owner.

    One of USER_ERASERS: inside the transaction that erases the user. In archived windows the others keep their ranks.
    Raises IntegrityError, as the commit may, when a score of theirs comes meanwhile.
    """
    owner = Owner.objects.filter(name=user).first()
    if owner is None:
        return False
    numbers = {user: owner.pk}
    entries = Entry.objects.filter(owner=owner)
    unarchived = Window.objects.filter(archived_at=None, pk__in=entries.values("window")).select_related("board")
    for window in unarchived.select_for_update(of=("self",)).order_by("pk"):
        book = Book(window)
        book.read(numbers)
        book.put(user, None)
        book.write(numbers, "", timezone.now())
        transaction.on_commit(partial(indexing.apply, window, book.changes), robust=True)
    archived = entries.filter(window__in=Window.objects.exclude(archived_at=None))
    ranked = archived.filter(hidden=False)
    Window.objects.filter(pk__in=ranked.values("window")).update(entries=F("entries") - 1)
    archived.delete()
    Submission.objects.filter(owner=owner).delete()
    _, deleted = owner.delete()
    if deleted.get(Entry._meta.label):
        raise IntegrityError("A score has come meanwhile, whose ranking has not been told.")
    return True
