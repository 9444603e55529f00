"""Many rows in few statements: the ORM takes longer to make objects of them than both databases to store them."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from django.db import connection, models

VALUES_A_STATEMENT = 20_000  # SQLite takes 32,766.

T = TypeVar("T")


def insert(model: type[models.Model], columns: Sequence[str], rows: Sequence[Sequence[Any]], tail: str = "") -> None:
    """Inserts rows of plain values; `tail` is SQL that follows, such as ON CONFLICT."""
    table = connection.ops.quote_name(model._meta.db_table)
    names = ", ".join(map(connection.ops.quote_name, columns))
    marks = f"({', '.join(['%s'] * len(columns))})"
    with connection.cursor() as cursor:
        for some in chunks(rows, VALUES_A_STATEMENT // len(columns)):
            cursor.execute(
                f"INSERT INTO {table} ({names}) VALUES {', '.join([marks] * len(some))} {tail}",  # noqa: S608 (ours)
                [value for row in some for value in row],
            )


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
