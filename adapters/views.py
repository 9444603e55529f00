"""The API for destinations, and for what they are owed."""

from typing import cast
from uuid import UUID

import msgspec
from django.db.models import Count, Q
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.requests import PAGES, caller, newest_first, shaped, wrong
from accounts.shapes import ERRORS, query
from adapters import dead_letters, destinations, shapes
from adapters.models import Delivery, Destination

READ, WRITE = "deliveries:read", "deliveries:write"


class Destinations(APIView):
    @extend_schema(
        operation_id="destinations",
        summary="Destinations, newest first",
        parameters=PAGES,
        responses={200: shapes.Destinations, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        caller(request).require_scope(READ)
        rows, after = newest_first(request, Destination.objects.filter(deleted_at=None))
        return Response(shapes.Destinations(_shown(rows), after))

    @extend_schema(
        operation_id="create_destination",
        summary="A new destination; its secret is shown this once",
        request=shapes.NewDestination,
        responses={201: shapes.MadeDestination, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        caller(request).require_scope(WRITE)
        row, secret = destinations.create(caller(request), shaped(request.data, shapes.NewDestination))
        (made,) = _shown([row])
        return Response(shapes.MadeDestination(**msgspec.structs.asdict(made), secret=secret), status=201)


class OneDestination(APIView):
    @extend_schema(operation_id="destination", summary="A destination", responses={200: shapes.Destination, **ERRORS})
    def get(self, request: Request, destination_id: UUID) -> Response:
        caller(request).require_scope(READ)
        return Response(_shown([_found(destination_id)])[0])

    @extend_schema(
        operation_id="change_destination",
        summary="Change a destination; what is not given stays",
        request=shapes.DestinationChange,
        responses={200: shapes.Destination, **ERRORS},
    )
    def patch(self, request: Request, destination_id: UUID) -> Response:
        caller(request).require_scope(WRITE)
        destinations.change(caller(request), _found(destination_id), shaped(request.data, shapes.DestinationChange))
        return Response(_shown([_found(destination_id)])[0])

    @extend_schema(
        operation_id="delete_destination",
        summary="Delete a destination, and what it is owed",
        responses={204: None, **ERRORS},
    )
    def delete(self, request: Request, destination_id: UUID) -> Response:
        caller(request).require_scope(WRITE)
        destinations.delete(caller(request), _found(destination_id))
        return Response(status=204)


class RotateSecret(APIView):
    @extend_schema(
        operation_id="rotate_destination_secret",
        summary="A new secret; the one before signs too, until the next rotation",
        request=None,
        responses={200: shapes.Secret, **ERRORS},
    )
    def post(self, request: Request, destination_id: UUID) -> Response:
        caller(request).require_scope(WRITE)
        return Response(shapes.Secret(destinations.rotate_secret(caller(request), _found(destination_id))))


class Deliveries(APIView):
    @extend_schema(
        operation_id="deliveries",
        summary="What destinations were owed, newest first",
        parameters=[
            query("destination", "Only this one's: its id.", UUID),
            query("state", "Only these: pending, delivered, dead or expired."),
            query("event", "Only of this event or message: its id.", UUID),
            *PAGES,
        ],
        responses={200: shapes.Deliveries, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        caller(request).require_scope(READ)
        found = Delivery.objects.filter(_wanted(request)).defer("body")
        rows, after = newest_first(request, found, int)
        return Response(shapes.Deliveries([_delivery(row) for row in rows], after))


class Redrive(APIView):
    @extend_schema(
        operation_id="redrive_deliveries",
        summary="Send dead letters again: some, or a destination's",
        request=shapes.Redrive,
        responses={202: shapes.Redriven, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        caller(request).require_scope(WRITE)
        wanted = shaped(request.data, shapes.Redrive)
        ids = None if wanted.ids is msgspec.UNSET else wanted.ids
        destination = None if wanted.destination is msgspec.UNSET else _found(wanted.destination).pk
        if (ids is None) == (destination is None):
            raise wrong("ids", "either `ids` or `destination`")
        since = None if wanted.since is msgspec.UNSET else wanted.since
        if since is not None and since.tzinfo is None:
            raise wrong("since", "a time with its zone")
        redriven = dead_letters.redrive(caller(request), ids=ids, destination=destination, since=since)
        return Response(shapes.Redriven(redriven), status=202)


def _found(destination_id: UUID) -> Destination:
    row = Destination.objects.filter(pk=destination_id, deleted_at=None).first()
    if row is None:
        raise destinations.unknown()
    return row


def _shown(rows: list[Destination]) -> list[shapes.Destination]:
    pending = dict(
        Delivery.objects.filter(destination__in=[row.pk for row in rows], state=Delivery.State.PENDING)
        .values_list("destination")
        .annotate(Count("pk"))
    )
    return [
        shapes.Destination(
            id=row.pk,
            counts=shapes.DeliveryCounts(pending.get(row.pk, 0), row.delivered, row.dead, row.expired),
            **{name: getattr(row, name) for name in _FIELDS},
        )
        for row in rows
    ]


_FIELDS = (
    "name", "kind", "address", "options", "events", "topics", "types", "enabled", "disabled_reason", "failures",
    "failing_since", "paused_until", "last_error", "created_at",
)  # fmt: skip


def _wanted(request: Request) -> Q:
    wanted, params = Q(), request.query_params
    for name, field in (("destination", "destination"), ("event", "event_id")):
        if name in params:
            try:
                wanted &= Q(**{field: UUID(params[name])})
            except ValueError:
                raise wrong(name, "an id") from None
    if (state := params.get("state")) is not None:
        if state not in Delivery.State.values:
            raise wrong("state", f"one of {', '.join(Delivery.State.values)}")
        wanted &= Q(state=state)
    return wanted


def _delivery(row: Delivery) -> shapes.Delivery:
    pending = row.state == Delivery.State.PENDING
    return shapes.Delivery(
        id=row.pk,
        destination=row.destination_id,
        event_id=row.event_id,
        event=row.event,
        key=row.key,
        state=cast(shapes.State, row.state),
        attempts=row.attempts,
        due_at=row.due_at if pending else None,
        expires_at=row.expires_at,
        error=row.error,
        response=row.response,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
