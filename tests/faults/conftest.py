"""The table of the whole matrix is shown when all is done."""

from collections.abc import Iterator

import pytest

from tests.faults.report import Table


@pytest.fixture(scope="session")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    if len(table.rows) > 1:
        print(f"\n\n{table}\n")
