"""The identity API, and the operator's one-time login. A view says who may; the services say what."""

from datetime import datetime
from uuid import UUID

import msgspec
from django.conf import settings
from django.contrib.auth import login
from django.db.models import Q
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.module_loading import import_string
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET
from drf_spectacular.utils import extend_schema
from msgspec import UNSET
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import credentials, shapes, tickets, tokens, users
from accounts.errors import ApiError
from accounts.models import AuditEntry, Token, User
from accounts.operators import redeem
from accounts.principals import Kind, Principal, covers, valid_id
from accounts.requests import PAGES, caller, newest_first, on_behalf, require_id, shaped, wrong
from accounts.shapes import ERRORS, query

ATTRIBUTES_MAX_BYTES = 16 * 1024
OWN_TOKEN_SECONDS = 30 * 60
CACHE_NAME = "default"


@require_GET
@never_cache
def operator_login(request: HttpRequest, token: str) -> HttpResponse:
    """Signs in by a one-time link and goes to the admin; a link that is old or used says so."""
    user = redeem(token)
    if user is None:
        return render(request, "login_link_used.html", status=410)
    login(request, user)
    return HttpResponseRedirect(reverse("admin:index"))


class OneUser(APIView):
    @extend_schema(operation_id="user", summary="A user", responses={200: shapes.User, **ERRORS})
    def get(self, request: Request, user: str) -> Response:
        if caller(request).acts != user:
            caller(request).require_scope("users:read")
        return Response(_user(_known(user)))

    @extend_schema(
        operation_id="put_user",
        summary="Make or change a user",
        request=shapes.UserChange,
        responses={200: shapes.User, **ERRORS},
    )
    def put(self, request: Request, user: str) -> Response:
        caller(request).require_scope("users:write")
        require_id("user", user)
        changes = shaped(request.data, shapes.UserChange)
        if changes.account is not UNSET and changes.account is not None:
            require_id("account", changes.account)
        if changes.name is not UNSET and not (changes.name.isprintable() or not changes.name):
            raise wrong("name", "printable text")
        if changes.attributes is not UNSET and len(msgspec.json.encode(changes.attributes)) > ATTRIBUTES_MAX_BYTES:
            raise ApiError(413, "too_large", f"attributes: {ATTRIBUTES_MAX_BYTES} bytes of JSON at most.")
        return Response(_user(users.change(caller(request), user, changes)))

    @extend_schema(
        operation_id="erase_user",
        summary="Erase a user from every room, and end their credentials",
        responses={204: None, **ERRORS},
    )
    def delete(self, request: Request, user: str) -> Response:
        caller(request).require_scope("users:write")
        require_id("user", user)
        if not users.erase(caller(request), user):
            raise _no_such_user()
        return Response(status=204)


class OwnToken(APIView):
    @extend_schema(
        operation_id="own_token",
        summary="A token to listen with: own topics, 30 minutes",
        parameters=[
            query("user", "For whom; services and operators say."),
            query("provider", "Whose token: `fanfare`, or `momento` where that is set up."),
        ],
        responses={200: shapes.OwnToken, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        principal = caller(request)
        provider = request.query_params.get("provider", "fanfare")
        if provider != "fanfare" and provider not in settings.TOKEN_PROVIDERS:
            raise ApiError(422, "provider_not_configured", "provider: there is no such one here.")
        user = on_behalf(principal, request.query_params.get("user"), "tokens:write")
        account = users.see(user, None, 0.0) if principal.is_backend else principal.account
        topics = _exact(Principal(Kind.USER, user, account=account).own_topics)
        if provider != "fanfare":
            issue = import_string(settings.TOKEN_PROVIDERS[provider])
            return Response(issue(topics, _at_most(principal, OWN_TOKEN_SECONDS)))
        row, text = tokens.issue(
            principal, ttl=_at_most(principal, OWN_TOKEN_SECONDS), user=user, account=account,
            subscribe=topics, scoped=True,
        )  # fmt: skip
        endpoint = request.build_absolute_uri("/ws/").replace("http", "ws", 1)
        return Response(shapes.OwnToken(endpoint, text, CACHE_NAME, int(row.expires_at.timestamp())))

    @extend_schema(
        operation_id="log_out",
        summary="End the credential that this request comes with",
        responses={204: None, **ERRORS},
    )
    def delete(self, request: Request) -> Response:
        credentials.log_out(caller(request))
        return Response(status=204)


class Tokens(APIView):
    @extend_schema(
        operation_id="create_token",
        summary="Make a token",
        request=shapes.TokenRequest,
        responses={201: shapes.NewToken, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        principal = caller(request)
        wanted = shaped(request.data, shapes.TokenRequest)
        user = None if wanted.user is UNSET else wanted.user
        account = None if wanted.account is UNSET else wanted.account
        scoped = wanted.topics is not UNSET
        topics = [] if wanted.topics is UNSET else list(dict.fromkeys(wanted.topics))
        for name, value in (("user", user), ("account", account)):
            if value is not None:
                require_id(name, value)
        if not all(topic.isprintable() and "," not in topic for topic in topics):
            raise wrong("topics", "printable text without comma, each")
        if principal.is_backend:
            principal.require_scope("tokens:write")
            if user is None and not scoped:
                raise ApiError(422, "refused", "user or topics says what the token is for.")
        else:
            user, account = _own_share(principal, wanted, topics)
        row, text = tokens.issue(
            principal,
            ttl=_at_most(principal, wanted.ttl),
            user=user,
            account=account,
            subscribe=topics if "subscribe" in wanted.allow else [],
            publish=topics if "publish" in wanted.allow else [],
            scoped=scoped,
        )
        return Response(shapes.NewToken(str(row.id), text, row.expires_at), status=201)

    @extend_schema(
        operation_id="tokens",
        summary="Tokens that are good, newest first",
        parameters=[
            query("user", "Only this user's."),
            *PAGES,
        ],
        responses={200: shapes.Tokens, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        principal = caller(request)
        found = Token.objects.filter(expires_at__gt=timezone.now(), revoked_at=None)
        if not principal.is_backend:
            found = found.filter(user=principal.require_user())
        else:
            principal.require_scope("tokens:read")
            if user := request.query_params.get("user", "").replace("\0", ""):
                found = found.filter(user=user)
        rows, after = newest_first(request, found)
        return Response(shapes.Tokens([_token(row) for row in rows], after))


class OneToken(APIView):
    @extend_schema(
        operation_id="revoke_token",
        summary="Revoke a token: for requests at once, for connections within a second",
        responses={204: None, **ERRORS},
    )
    def delete(self, request: Request, token_id: UUID) -> Response:
        principal = caller(request)
        if principal.is_backend:
            principal.require_scope("tokens:write")
        found = Token.objects.filter(pk=token_id)
        if not principal.is_backend:
            found = found.filter(user=principal.require_user())
        token = found.first()
        if token is None:
            raise ApiError(404, "unknown_token", "There is no token with this id.")
        tokens.revoke(principal, token)
        return Response(status=204)


class Tickets(APIView):
    @extend_schema(
        operation_id="create_ticket",
        summary="A ticket for one handshake within 30 s, in place of the caller's credential",
        request=None,
        responses={201: shapes.Ticket, **ERRORS},
    )
    def post(self, request: Request) -> Response:
        return Response(shapes.Ticket(*tickets.issue(caller(request))), status=201)


class Audit(APIView):
    @extend_schema(
        operation_id="audit",
        summary="Who changed what, newest first",
        parameters=[
            query("subject", "Only changes of this, as `user:42` or `token:…`."),
            query("actor", "Only changes by this one, as `service:…`."),
            *PAGES,
        ],
        responses={200: shapes.Audit, **ERRORS},
    )
    def get(self, request: Request) -> Response:
        caller(request).require_scope("admin:read")
        wanted = Q()
        for name in ("subject", "actor"):
            if text := request.query_params.get(name, "").replace("\0", ""):
                wanted &= Q(**{name: text})
        rows, after = newest_first(request, AuditEntry.objects.filter(wanted))
        return Response(shapes.Audit([_entry(row) for row in rows], after))


# --- What they share ------------------------------------------------------------------------------


def _own_share(principal: Principal, wanted: shapes.TokenRequest, topics: list[str]) -> tuple[str, str | None]:
    """A user passes on a part of what they have, to be used as themselves."""
    user = principal.require_user()
    if wanted.user not in (UNSET, user) or wanted.account not in (UNSET, principal.account):
        raise ApiError(403, "denied", "A user makes tokens for themselves only.")
    if not topics:
        raise ApiError(403, "denied", "topics: a user passes on some topics, not everything.")
    for verb, patterns in (
        ("subscribe", (*_exact(principal.own_topics), *principal.subscribe)),
        ("publish", principal.publish),
    ):
        if verb in wanted.allow and not all(covers(patterns, topic) for topic in topics):
            raise ApiError(403, "denied", f"topics: you may not {verb} to all of these yourself.")
    return user, principal.account


def _exact(topics: list[str]) -> list[str]:
    """Without those that a token would take for the beginning of others: an id may end in `*`."""
    return [topic for topic in topics if not topic.endswith("*")]


def _at_most(principal: Principal, seconds: int) -> int:
    """A user's token does not outlive the credential that it was made with."""
    if principal.is_backend or principal.expires_at is None:
        return seconds
    return max(1, min(seconds, int(principal.expires_at - timezone.now().timestamp())))


def _known(user: str) -> User:
    row = User.objects.filter(pk=user).first() if valid_id(user) else None
    if row is None:
        raise _no_such_user()
    return row


def _no_such_user() -> ApiError:
    return ApiError(404, "unknown_user", "There is no user with this id.")


def _user(row: User) -> shapes.User:
    return shapes.User(row.id, row.account_id, row.name, row.attributes, row.created_at)


def _token(row: Token) -> shapes.Token:
    return shapes.Token(
        str(row.id), row.user or None, row.account or None, row.subscribe, row.publish,
        row.created_at, row.created_by, row.expires_at, row.revoked_at,
    )  # fmt: skip


def _entry(row: AuditEntry) -> shapes.AuditEntry:
    when: datetime = row.created_at
    return shapes.AuditEntry(
        str(row.id), row.actor, row.action, row.subject, row.before, row.after, row.request_id, row.address, when
    )
