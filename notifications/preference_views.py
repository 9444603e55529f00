"""The API over what users want of each type of messages."""

from typing import Any, Literal

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import ApiError
from accounts.requests import caller, on_behalf, require_id, shaped
from accounts.shapes import ERRORS
from notifications import preferences
from notifications.drafts import checked_type

CHOICES: dict[str, Any] = {
    "type": "object",
    "additionalProperties": {"type": "string", "enum": list(preferences.Choice)},
    "example": {"*": "live", "digest": "inbox", "marketing": "off"},
}
JSON = "application/json"


class Preferences(APIView):
    @extend_schema(
        operation_id="preferences",
        summary="What a user wants of each type of messages",
        description="`*` stands for all types without a choice of their own, which are `live` without it.",
        responses={(200, JSON): CHOICES, **ERRORS},
    )
    def get(self, request: Request, user: str) -> Response:
        on_behalf(caller(request), require_id("user", user), "users:read")
        return Response(preferences.of(user).by_type)

    @extend_schema(
        operation_id="set_preferences",
        summary="Choose, in place of all that was chosen before",
        request={JSON: CHOICES},
        responses={(200, JSON): CHOICES, **ERRORS},
    )
    def put(self, request: Request, user: str) -> Response:
        on_behalf(caller(request), require_id("user", user), "users:write")
        choices = shaped(request.data, dict[str, Literal["live", "inbox", "off"]])
        if len(choices) > preferences.TYPES_MAX:
            raise _refused(f"{preferences.TYPES_MAX} types at most")
        for type in choices:
            checked_type(type)
        if critical := preferences.check_critical(choices):
            raise _refused(f"critical types are always live (CRITICAL_TYPES): {', '.join(critical)}")
        preferences.replace(user, choices)
        return Response(choices)

    @extend_schema(
        operation_id="reset_preferences", summary="Choose nothing: all live", responses={204: None, **ERRORS}
    )
    def delete(self, request: Request, user: str) -> Response:
        on_behalf(caller(request), require_id("user", user), "users:write")
        preferences.replace(user, {})
        return Response(status=204)


def _refused(why: str) -> ApiError:
    return ApiError(422, "refused", f"{why}.")
