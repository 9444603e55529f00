"""Whether a process lives, whether it can serve, and what it counts."""

import logging
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from accounts import throttles
from accounts.credentials import authenticate
from accounts.errors import ApiError
from adapters.metrics import DeliveryCollector
from realtime import runtime
from sessions_app.metrics import DispatchCollector

logger = logging.getLogger(__name__)

BUS_IS_DOWN = "The bus is down: check REDIS_URL. Until it is back, events come from the log, within seconds."
NOT_THROTTLED = "Nobody is throttled: Redis does not answer; check REDIS_URL."

_LOOPBACK = {"127.0.0.1", "::1", ""}
_PASSED_ON = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-real-ip", "forwarded", "via"}
_migrated = False
_owed = CollectorRegistry()
_owed.register(DeliveryCollector())
_owed.register(DispatchCollector())


@require_safe
@never_cache
def livez(_request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def readyz(_request: HttpRequest) -> JsonResponse:
    """503 when requests would fail; 200 and `degraded` when they are served, but late events or no throttles."""
    failing = _database_problems()
    if runtime.is_draining():
        failing.append("This process is shutting down.")
    degraded = [BUS_IS_DOWN] if runtime.bus_is_up() is False else []
    if not throttles.is_counting():
        degraded.append(NOT_THROTTLED)
    status = "failing" if failing else "degraded" if degraded else "ok"
    return JsonResponse({"status": status, "problems": failing + degraded}, status=503 if failing else 200)


def _database_problems() -> list[str]:
    global _migrated
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not _migrated:
            executor = MigrationExecutor(connection)
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                return ["Migrations are missing: run `manage.py migrate`."]
            _migrated = True
    except DatabaseError:
        return ["The database does not answer: check DATABASE_URL."]
    return []


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus' text format, for loopback and holders of admin:read."""
    if not _may_see_metrics(request):
        return JsonResponse(
            {"error": {"code": "denied", "message": "From elsewhere this needs a key with the scope admin:read."}},
            status=403,
        )
    registry: Any = REGISTRY
    if folder := multiprocess_folder():
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    text = generate_latest(registry)
    try:
        text += generate_latest(_owed)
    except DatabaseError:  # It has a line of its own in /readyz.
        logger.warning("What is owed is missing from /metrics: the database does not answer.")
    return HttpResponse(text, content_type=CONTENT_TYPE_LATEST)


def _may_see_metrics(request: HttpRequest) -> bool:
    headers = {name.lower(): value for name, value in request.headers.items()}
    if request.META.get("REMOTE_ADDR", "") in _LOOPBACK and not _PASSED_ON & headers.keys():
        return True
    try:
        return authenticate(headers).has_scope("admin:read")
    except (ApiError, DatabaseError):  # Not known, or nobody can say now.
        return False


def multiprocess_folder() -> Path | None:
    """Where the processes share their counts, when there are several."""
    folder = settings.PROMETHEUS_MULTIPROC_DIR
    return Path(folder) if folder else None
