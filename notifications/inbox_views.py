"""The inbox over HTTP, and its actions over a socket."""

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from django.db.models import Q
from drf_spectacular.utils import OpenApiParameter, extend_schema
from msgspec import UNSET
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import PAGES, caller, cursor, moment, on_behalf, page_limit, seal_cursor, shaped, wrong
from accounts.shapes import ERRORS, query
from notifications import acknowledgements, receipts, shapes
from notifications.inbox import Inbox, Place
from notifications.receipts import Deed, Done
from realtime import protocol

FLAGS = {"1": True, "true": True, "0": False, "false": False}


class InboxPage(APIView):
    @extend_schema(
        operation_id="inbox",
        summary="A user's inbox, newest first, with counts",
        parameters=[
            query("user", "Whose; services and operators say."),
            query("unread", "`1`: only what is not read.", bool),
            query("archived", "`1`: only what is archived; else only what is not.", bool),
            query("type", "Only these types, separated by commas."),
            query("start", "From when."),
            query("end", "Until when."),
            *PAGES,
        ],
        responses={200: shapes.Inbox, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        user = on_behalf(caller(request), request.query_params.get("user"), "inbox:read")
        wanted = Q()
        if types := [type for type in request.query_params.get("type", "").replace("\0", "").split(",") if type]:
            wanted &= Q(type__in=types)
        if start := moment(request, "start"):
            wanted &= Q(created_at__gte=start)
        if end := moment(request, "end"):
            wanted &= Q(created_at__lte=end)
        place = cursor(request, tuple[datetime, int, int])
        if place and place[0].tzinfo is None:
            raise wrong("cursor", "the `next` of an earlier page")
        inbox = Inbox.open(user)
        messages, after = inbox.page(
            wanted,
            limit=page_limit(request),
            before=Place(*place) if place else None,
            unread=_flag(request, "unread"),
            archived=_flag(request, "archived"),
        )
        following = seal_cursor(after.moment, after.rank, after.offset) if after else None
        return Response({"messages": messages, **msgspec.structs.asdict(inbox.counts()), "next": following})


class Receipts(APIView):
    @extend_schema(
        operation_id="receipt",
        summary="See, read, un-read or archive messages of the inbox",
        description="The receipts are stored when the reply comes, with `async=1` too, which is then a 202.",
        parameters=[
            OpenApiParameter("deed", str, OpenApiParameter.PATH, enum=list(Deed)),
            query("async", "`1`: answer 202.", bool),
        ],
        request=shapes.ReceiptRequest,
        responses={200: shapes.Receipted, 202: shapes.Receipted, **ERRORS},
    )
    def post(self, request: Request, deed: str) -> Response:
        if deed not in list(Deed):
            raise ApiError(404, "not_found", f"The inbox takes: {', '.join(Deed)}.")
        wanted = shaped(request.data, shapes.ReceiptRequest)
        user = on_behalf(caller(request), None if wanted.user is UNSET else wanted.user, "inbox:write")
        done = _carry_out(
            user,
            Deed(deed),
            ids=None if wanted.ids is UNSET else wanted.ids,
            as_of=None if wanted.as_of is UNSET else wanted.as_of,
            everything=wanted.all is True,
        )
        return Response(_reply(done), status=202 if _flag(request, "async") else 200)


class Acknowledge(APIView):
    @extend_schema(
        operation_id="acknowledge",
        summary="Say which messages a client has shown",
        description="For clients without a socket, which has the action `ack`. Unknown ids change nothing.",
        request=shapes.AckRequest,
        responses={200: shapes.Acknowledged, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        shown = shaped(request.data, shapes.AckRequest)
        user = on_behalf(caller(request), None if shown.user is UNSET else shown.user, "inbox:write")
        return Response({"acknowledged": acknowledgements.acknowledge(user, shown.ids)})


def perform(action: protocol.Receipt, principal: Principal, _connection: str) -> dict[str, Any]:
    """The socket's actions `seen`, `read`, `unread`, `archive` (REALTIME_ACTIONS). Raises ApiError."""
    user = principal.require_user()
    deed = Deed(type(action).__name__.lower())
    return _reply(_carry_out(user, deed, ids=action.ids, as_of=action.as_of, everything=action.all))


def greeting(principal: Principal) -> dict[str, Any]:
    """What a user's `welcome` says of the inbox (REALTIME_GREETING)."""
    if principal.acts is None:
        return {}
    return msgspec.structs.asdict(Inbox.open(principal.acts).counts())


def _carry_out(user: str, deed: Deed, *, ids: list[UUID] | None, as_of: datetime | None, everything: bool) -> Done:
    if (ids is not None) + (as_of is not None) + everything != 1:
        raise ApiError(400, "malformed", "Say which: exactly one of ids, as_of, all.")
    if as_of is not None and as_of.tzinfo is None:
        raise wrong("as_of", "a time with its zone, as 2026-01-31T12:00:00Z")
    if ids is not None:
        if len(ids) > receipts.IDS_MAX:
            raise wrong("ids", f"{receipts.IDS_MAX} at most")
        return receipts.receipt(user, deed, ids)
    if deed is Deed.UNREAD:
        raise ApiError(422, "refused", "Unread takes ids: what was read as a whole stays read.")
    return receipts.receipt_all(user, deed, as_of)


def _reply(done: Done) -> dict[str, Any]:
    return {"receipted": list(done.receipted), **msgspec.structs.asdict(done.counts)}


def _flag(request: Request, name: str) -> bool:
    value = request.query_params.get(name, "0")
    if value not in FLAGS:
        raise wrong(name, "1 or 0")
    return FLAGS[value]
