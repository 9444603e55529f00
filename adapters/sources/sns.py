"""`POST /api/ingest/{source}/sns`: where a topic of SNS delivers to, for a source with `sns`."""

import base64
import hmac
import logging

import msgspec
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.shapes import ERRORS
from accounts.throttles import throttle_address
from adapters import metrics
from adapters.ingest import Record, ingest
from adapters.ingest_settings import Source, sources
from adapters.sources import sns_letters
from adapters.sources.envelopes import opened
from adapters.sources.sns_letters import Letter, Unreachable

logger = logging.getLogger(__name__)


class FromSns(APIView):
    """SNS's signature is the credential; where it delivers raw, and signs nothing, a password in the endpoint's URL."""

    authentication_classes = ()
    permission_classes = ()
    throttle_classes = ()

    @extend_schema(
        operation_id="ingest_from_sns",
        summary="Where a topic of Amazon SNS delivers to: confirmations, and notifications signed or raw",
        auth=[],
        request=OpenApiTypes.OBJECT,
        responses={202: None, **ERRORS},
    )
    def post(self, request: Request, source: str) -> Response:
        sender = sources().get(source)
        if sender is None or not sender.sns:
            throttle_address(request.META.get("REMOTE_ADDR"))
            raise ApiError(404, "unknown_source", "There is no source of this name that has sns.")
        try:
            body = request._request.body
        except RequestDataTooBig:
            raise ApiError(413, "too_large", "The body is too large (BATCH_MAX_BYTES).") from None
        if request.headers.get("x-amz-sns-rawdelivery") == "true":
            return _raw(sender, request, body)
        letter = _letter(sender, request, body)
        if letter.type == "Notification":
            # Not by its attributes: they are not signed, and whoever repeats a letter could make it a new one by them.
            _take(sender, Record(letter.message_id, letter.message.encode()))
        elif letter.type == "SubscriptionConfirmation":
            _confirm(sender, letter)
        else:
            logger.warning("The subscription of %s to %s has been ended.", sender.sns, sender.name)
        return Response(status=202)


def _letter(source: Source, request: Request, body: bytes) -> Letter:
    """Raises ApiError 400, 401 and 503."""
    try:
        letter = msgspec.json.decode(body, type=Letter)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, "malformed", f"This is not what SNS posts: {error}.") from None
    try:
        mistake = sns_letters.mistake(letter, body, source.sns)
    except Unreachable as error:
        throttle_address(request.META.get("REMOTE_ADDR"))
        logger.warning("The certificate of SNS cannot be had for %s: %s", source.name, error)
        raise ApiError(503, "unavailable", "The certificate of SNS cannot be had: try again.", retry_after=5) from None
    if mistake:
        throttle_address(request.META.get("REMOTE_ADDR"))
        raise ApiError(401, "unauthenticated", f"This is not believed to be from the topic: {mistake}.")
    return letter


def _confirm(source: Source, letter: Letter) -> None:
    """Raises ApiError 401 and 503."""
    if not sns_letters.is_of_sns(letter.subscribe_url, source.sns):
        raise ApiError(401, "unauthenticated", "SubscribeURL does not lead to SNS.")
    try:
        sns_letters.get(letter.subscribe_url)
    except Unreachable as error:
        logger.warning("The subscription of %s cannot be confirmed: %s", source.name, error)
        raise ApiError(503, "unavailable", "SNS does not answer: try again.", retry_after=5) from None
    logger.info("%s delivers to the source %s from now on.", source.sns, source.name)


def _raw(source: Source, request: Request, body: bytes) -> Response:
    """The body is the record itself."""
    right = request.headers.get("x-amz-sns-topic-arn") == source.sns
    id = request.headers.get("x-amz-sns-message-id", "")
    if not (right and id and _has_password(source, request.headers.get("Authorization", ""))):
        throttle_address(request.META.get("REMOTE_ADDR"))
        error = ApiError(
            401,
            "unauthenticated",
            "Raw deliveries are not signed: the endpoint's URL needs one of the source's secrets as its password.",
        )
        # SNS sends the password only when it is asked for it.
        headers = {"WWW-Authenticate": f'Basic realm="{source.name}"'}
        return Response({"error": error.as_dict()}, status=401, headers=headers)
    _take(source, Record(id, body))
    return Response(status=202)


def _has_password(source: Source, authorization: str) -> bool:
    scheme, _, credentials = authorization.partition(" ")
    try:
        password = base64.b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return False
    return scheme.lower() == "basic" and any(hmac.compare_digest(one.encode(), password) for one in source.secrets)


def _take(source: Source, record: Record) -> None:
    """Until it is taken or dead: SNS gives up after a few tries, and at once where a status below 500 refuses it.

    Raises ApiError 503 when it has to come again.
    """
    try:
        for _ in range(settings.INGEST_TRIES):
            (result,) = ingest(source, [opened(source, record)])
            metrics.records.labels(source.name, result.status).inc()
            if result.done:
                return
    except (OperationalError, InterfaceError) as error:
        logger.warning("A record of %s has to come again: %r", source.name, error)
    except ApiError as error:
        logger.warning("A record of %s has to come again: %s", source.name, error)
    raise ApiError(503, "unavailable", "The record cannot be taken now: try again.", retry_after=1)
