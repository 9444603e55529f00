"""Acknowledging what was received from a table; receiving waits, so it is an endpoint of its own."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.requests import caller, shaped
from accounts.shapes import ERRORS
from adapters import fetching
from adapters.fetch_endpoint import SCOPE
from adapters.fetch_shapes import AcknowledgedMessages, AcknowledgeMessages


class Acknowledge(APIView):
    @extend_schema(
        operation_id="acknowledge_client_messages",
        summary="Delete messages that are done with, by their receipts",
        request=AcknowledgeMessages,
        responses={200: AcknowledgedMessages, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        caller(request).require_scope(SCOPE)
        receipts = shaped(request.data, AcknowledgeMessages).receipts
        return Response(AcknowledgedMessages(fetching.acknowledge(receipts)))
