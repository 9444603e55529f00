"""`manage.py consume` with short leases, which kills itself at the place that its first argument names."""

import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

import django

django.setup()

from django.core.management import call_command  # noqa: E402

from adapters.ingest import ingest  # noqa: E402
from adapters.sources import checkpoints, consuming, kinesis, sqs  # noqa: E402

sqs.VISIBILITY_SECONDS = 2
checkpoints.LEASE = timedelta(seconds=2)
kinesis.SHARE_SECONDS = 0.3


def _dying(function: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not before:
            function(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    return wrapped


if __name__ == "__main__":
    match sys.argv[1]:
        case "received":
            consuming.ingest = _dying(ingest, before=True)  # type: ignore[attr-defined]
        case "taken":
            consuming.ingest = _dying(ingest, before=False)  # type: ignore[attr-defined]
    call_command("consume", *sys.argv[2:])
