"""Many rows in few statements: the ORM takes longer to make objects of them than both databases to store them."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec
from django.db import connection, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.utils import CursorWrapper
from django.db.models.sql.compiler import SQLCompiler

VALUES_A_STATEMENT = 20_000  # SQLite takes 32,766.

T = TypeVar("T")


def insert(model: type[models.Model], columns: Sequence[str], rows: Sequence[Sequence[Any]], tail: str = "") -> None:
    """Inserts rows of plain values; `tail` is SQL that follows, such as ON CONFLICT."""
    if not rows:
        return
    names = ", ".join(map(connection.ops.quote_name, columns))
    into = f"INSERT INTO {connection.ops.quote_name(model._meta.db_table)} ({names})"  # All SQL here is ours.
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            _insert_arrays(cursor, model, into, columns, rows, tail)
            return
        marks = f"({', '.join(['%s'] * len(columns))})"
        for some in chunks(rows, VALUES_A_STATEMENT // len(columns)):
            values = ", ".join([marks] * len(some))
            cursor.execute(f"{into} VALUES {values} {tail}", [value for row in some for value in row])


def _insert_arrays(
    cursor: CursorWrapper,
    model: type[models.Model],
    into: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    tail: str,
) -> None:
    """An array for each column: a value of its own is dearer to parse. What is the same in all rows goes once."""
    kinds = [str(model._meta.get_field(name).db_type(connection)).partition("(")[0] for name in columns]
    given = [list(values) for values in zip(*rows, strict=True)]
    differ = [place for place, values in enumerate(given) if values.count(values[0]) < len(rows)] or [0]
    wanted = [f"r{place}" if place in differ else f"%s::{kind}" for place, kind in enumerate(kinds)]
    arrays = ", ".join(f"%s::{kinds[place]}[]" for place in differ)
    names = ", ".join(f"r{place}" for place in differ)
    cursor.execute(
        f"{into} SELECT {', '.join(wanted)} FROM unnest({arrays}) AS rows ({names}) {tail}",  # noqa: S608
        [values[0] for place, values in enumerate(given) if place not in differ]
        + [_array(given[place]) for place in differ],
    )


def _array(values: Sequence[Any]) -> Any:
    """Numbers are written out here: psycopg looks at each for what it would have to quote."""
    if all(type(value) in (int, float) for value in values):
        return "{" + ",".join(map(repr, values)) + "}"
    return values


@models.ForeignObject.register_lookup
@models.Field.register_lookup
class Among(models.Lookup):
    """`among`: `in` for very many values, as one parameter: thousands take longer to hand over than to find."""

    lookup_name = "among"
    prepare_rhs = False

    def as_sql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper) -> tuple[str, tuple[str | int, ...]]:
        column, params = self.process_lhs(compiler, connection)
        if connection.vendor == "sqlite":
            values = "SELECT value FROM json_each(%s)"
        else:
            kind = self.lhs.output_field.db_type(connection)
            values = f"SELECT value::{kind} FROM json_array_elements_text(%s::json)"  # noqa: S608 (a type of ours)
        return f"{column} IN ({values})", (*params, msgspec.json.encode(self.rhs).decode())


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
