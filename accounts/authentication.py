"""How Django REST framework learns who calls."""

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.request import Request

from accounts.credentials import Unauthenticated, authenticate, from_bare, from_operator
from accounts.principals import Principal
from accounts.throttles import throttle_address


class BearerAuthentication(BaseAuthentication):
    """API keys and tokens in the Authorization header."""

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        if "authorization" not in request.headers:
            return None
        try:
            return authenticate({"authorization": request.headers["authorization"]}), None
        except Unauthenticated:
            throttle_address(request.META.get("REMOTE_ADDR"))  # Who guesses is slowed down.
            raise

    def authenticate_header(self, _request: Request) -> str:
        return "Bearer"


class BareAuthentication(BaseAuthentication):
    """API keys and tokens as Momento's clients send them: alone in the Authorization header, or as `?token=`."""

    def authenticate(self, request: Request) -> tuple[Principal, None]:
        headers = {"authorization": text} if (text := request.headers.get("authorization")) is not None else {}
        try:
            return from_bare(headers, request.query_params.dict()), None
        except Unauthenticated:
            throttle_address(request.META.get("REMOTE_ADDR"))  # Who guesses is slowed down.
            raise

    def authenticate_header(self, _request: Request) -> str:
        return "Bearer"


class OperatorAuthentication(SessionAuthentication):
    """The Django session of a staff user, with CSRF."""

    def authenticate(self, request: Request) -> tuple[Principal, None] | None:
        if not request.COOKIES.get(settings.SESSION_COOKIE_NAME, "").isprintable():  # PostgreSQL raises for a NUL.
            return None
        signed_in = super().authenticate(request)
        if signed_in is None or not signed_in[0].is_staff:
            return None
        return from_operator(signed_in[0], request._request.session.session_key or ""), None


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = BearerAuthentication
    name = "bearer"

    def get_security_definition(self, _auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "An API key (`ff_…`) or a user's token."}


class OperatorScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = OperatorAuthentication
    name = "session"

    def get_security_definition(self, _auto_schema: object) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "sessionid", "description": "An operator's session."}


class BareScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = BareAuthentication
    name = "bare"

    def get_security_definition(self, _auto_schema: object) -> dict[str, str]:
        return {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Alone, or after `Bearer`."}
