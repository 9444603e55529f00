"""The product under load and under faults. `make test` runs a short set, `make faults` the whole matrix."""

import os
import random
from collections.abc import Callable

import pytest

from tests.faults.load import Size
from tests.faults.nemesis import MATRIX, SHORT, Fault
from tests.faults.report import KEEP, Table
from tests.faults.runs import carry_out, keep
from tests.servers import Stack

ALL = os.environ.get("FANFARE_FAULTS") == "all"
SEED = int(os.environ.get("FANFARE_FAULTS_SEED", random.randrange(1_000_000)))
WHOLE = Size(
    rate=float(os.environ.get("FANFARE_FAULTS_RATE", 200)),
    sockets=int(os.environ.get("FANFARE_FAULTS_SOCKETS", 500)),
    scheduled=0.03,
)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", MATRIX if ALL else [SHORT], ids=lambda fault: fault.id)
def test_nothing_that_was_promised_breaks(fault: Fault, make_stack: Callable[..., Stack], table: Table) -> None:
    stack = make_stack(POSITION_CHECK_SECONDS="10" if ALL else "3", LOG_LEVEL="WARNING")
    size, seconds = (WHOLE, 5.0) if ALL else (Size(rate=40, topics=10, sockets=60), 1.0)
    table.begin(fault, SEED)
    outcome = carry_out(stack, fault, size, seed=SEED, before=seconds, after=seconds)
    table.add(fault, outcome)
    if outcome.violations:
        folder = keep(outcome, stack, KEEP / f"faults-{SEED}-{fault.id}")
        pytest.fail(f"seed {SEED}, ledgers in {folder}:\n" + "\n".join(map(str, outcome.violations)), pytrace=False)
