from typing import cast

from django.contrib import admin, messages
from django.contrib.auth.base_user import AbstractBaseUser
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.admin import ReadOnly
from accounts.credentials import from_operator
from accounts.principals import Principal
from adapters import dead_letters, destinations
from adapters.models import Checkpoint, Delivery, Destination, FailedRecord
from adapters.shapes import DestinationChange


@admin.register(Destination)
class DestinationAdmin(ReadOnly):
    """Made and changed by the API, where its options are checked and its secret is shown."""

    list_display = ["name", "kind", "address", "enabled", "failures", "last_error", "delivered", "dead"]
    list_filter = ["kind", "enabled"]
    exclude = ["sealed", "claim", "claimed_until"]
    actions = ["redrive_dead_letters", "turn_on", "turn_off"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Destination]:
        return cast(QuerySet[Destination], super().get_queryset(request).filter(deleted_at=None))

    @admin.action(description="Send dead letters again", permissions=["redrive"])
    def redrive_dead_letters(self, request: HttpRequest, found: QuerySet[Destination]) -> None:
        redriven = sum(dead_letters.redrive(_operator(request), destination=row.pk) for row in found)
        messages.success(request, f"{redriven} dead letters are sent again.")

    @admin.action(description="Turn on", permissions=["redrive"])
    def turn_on(self, request: HttpRequest, found: QuerySet[Destination]) -> None:
        _switch(request, found, enabled=True)

    @admin.action(description="Turn off", permissions=["redrive"])
    def turn_off(self, request: HttpRequest, found: QuerySet[Destination]) -> None:
        _switch(request, found, enabled=False)

    def has_redrive_permission(self, request: HttpRequest) -> bool:
        return _may_write(request)


@admin.register(Delivery)
class DeliveryAdmin(ReadOnly):
    list_display = ["id", "destination", "event", "key", "state", "attempts", "error", "due_at", "finished_at"]
    list_filter = ["state", "destination"]
    list_select_related = ["destination"]
    search_fields = ["event_id__exact"]
    ordering = ["-id"]
    actions = ["redrive"]

    @admin.action(description="Send again, where it is a dead letter", permissions=["redrive"])
    def redrive(self, request: HttpRequest, found: QuerySet[Delivery]) -> None:
        redriven = dead_letters.redrive(_operator(request), ids=list(found.values_list("pk", flat=True)))
        messages.success(request, f"{redriven} dead letters are sent again.")

    def has_redrive_permission(self, request: HttpRequest) -> bool:
        return _may_write(request)


@admin.register(FailedRecord)
class FailedRecordAdmin(ReadOnly):
    """`manage.py ingest redrive` takes them in again."""

    list_display = ["source", "record_id", "kind", "tries", "error", "last_at", "dead_at"]
    list_filter = ["source", ("dead_at", admin.EmptyFieldListFilter)]
    ordering = ["-last_at"]


@admin.register(Checkpoint)
class CheckpointAdmin(ReadOnly):
    list_display = ["source", "part", "position", "ended", "changed_at", "claimed_until"]
    list_filter = ["source", "ended"]
    ordering = ["source", "part"]


def _may_write(request: HttpRequest) -> bool:
    return _operator(request).has_scope("deliveries:write")


def _operator(request: HttpRequest) -> Principal:
    return from_operator(cast(AbstractBaseUser, request.user), "")


def _switch(request: HttpRequest, found: QuerySet[Destination], *, enabled: bool) -> None:
    for row in found:
        destinations.change(_operator(request), row, DestinationChange(enabled=enabled))
    messages.success(request, f"{len(found)} destinations are {'on' if enabled else 'off'}.")
