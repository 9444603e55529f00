"""JWTs of outside issuers, as JWT_ISSUERS names them: an identity provider's, or the application's own."""

import base64
import math
import time
from typing import Any, TypeGuard, TypeVar

import jwt
import msgspec
from django.conf import settings

from accounts import jwks
from accounts.errors import ApiError
from accounts.issuer_settings import Issuer, issuers
from accounts.principals import ID_WANTED, Kind, Principal, valid_id
from accounts.tokens import MAX_BYTES, ExpiredToken, InvalidToken, credential_of

LEEWAY_SECONDS = 30  # How far the issuer's clock may be off.
DAY_SECONDS = 24 * 3600

# A weak public key is refused; a developer's weak secret PyJWT warns of, and production does not start with it.
_with_public_key = jwt.PyJWT({"enforce_minimum_key_length": True})
_with_secret = jwt.PyJWT()


class _Header(msgspec.Struct):
    """What is read of a token's header. `jku`, `x5u`, `x5c` and `jwk` are not: a token does not bring its own keys."""

    alg: str
    kid: str | None = None
    crit: Any = None


class _Issued(msgspec.Struct):
    iss: str | None = None


Part = TypeVar("Part", _Header, _Issued)


def issuer_of(token: str) -> str | None:
    """The issuer that the token names, not verified. Never raises: None for what is no token."""
    try:
        return _part(token, 1, _Issued).iss
    except InvalidToken:
        return None


def verify(token: str) -> Principal:
    """The user whom an outside issuer vouches for. May wait for the network: call it off the event loop.

    Raises ExpiredToken or InvalidToken, whose texts are for the log, and ApiError 503 when there are no keys to try.
    """
    name = _part(token, 1, _Issued).iss
    issuer = issuers().get(name) if name is not None else None
    if issuer is None:
        raise InvalidToken(f"not an issuer of ours: {str(name)[:200]!r}")
    header = _part(token, 0, _Header)
    if header.crit is not None:
        raise InvalidToken("it has critical extensions")
    if header.alg not in issuer.algorithms:
        raise InvalidToken(f"the issuer does not sign by {header.alg[:20]!r}")
    claims = _signed_claims(token, issuer, header)
    _check_audience(issuer, claims)
    return _principal(token, issuer, claims)


def _part(token: str, place: int, shape: type[Part]) -> Part:
    """The header (0) or the claims (1), as far as the shape goes, not verified. Raises InvalidToken."""
    if len(token) > MAX_BYTES:
        raise InvalidToken("too long")
    parts = token.split(".")
    if len(parts) != 3 or not token.isascii():
        raise InvalidToken("not a JWT")
    text = parts[place]
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=shape)
    except (ValueError, RecursionError) as error:
        raise InvalidToken(f"not a JWT: {error}") from error


def _signed_claims(token: str, issuer: Issuer, header: _Header) -> dict[str, Any]:
    """The claims, after signature, times, issuer and the claims that every token has to have."""
    if issuer.secret:
        return _decode(_with_secret, token, issuer.secret, issuer, header)
    try:
        keys = jwks.key_set(issuer.jwks_url).find(header.kid)
    except jwks.KeysUnavailable as error:
        message = "The keys that this token is checked with cannot be fetched: try again soon."
        raise ApiError(503, "keys_unavailable", message, retry_after=math.ceil(jwks.RETRY_SECONDS)) from error
    fitting = [key for key in keys if key.suits(header.alg)]
    if len(fitting) != 1:  # Two are none: which is meant is not for us, or for the token, to try out.
        raise InvalidToken(f"{len(fitting)} keys of the issuer fit")
    return _decode(_with_public_key, token, fitting[0].key, issuer, header)


def _decode(decoder: jwt.PyJWT, token: str, key: Any, issuer: Issuer, header: _Header) -> dict[str, Any]:
    try:
        return decoder.decode(
            token,
            key,
            algorithms=[header.alg],
            issuer=issuer.name,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "sub"], "verify_aud": False},  # Audiences: see _check_audience.
        )
    except jwt.ExpiredSignatureError as error:
        raise ExpiredToken("expired") from error
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        raise InvalidToken(str(error)) from error


def _check_audience(issuer: Issuer, claims: dict[str, Any]) -> None:
    claim = "aud"
    if issuer.preset == "cognito":
        use = claims.get("token_use")
        if use not in ("id", "access"):
            raise InvalidToken("token_use is neither id nor access")
        claim = "client_id" if use == "access" else "aud"
    named = claims.get(claim)
    named = [named] if isinstance(named, str) else named
    if issuer.audiences and not (_are_texts(named) and issuer.audiences.intersection(named)):
        raise InvalidToken(f"{claim} is not one of ours")


def _principal(token: str, issuer: Issuer, claims: dict[str, Any]) -> Principal:
    user, account = claims.get(issuer.user_claim, ""), claims.get(issuer.account_claim)
    if not (valid_id(user) and (account is None or valid_id(account))):
        raise InvalidToken(f"user and account are {ID_WANTED}")
    topics = {name: claims.get(name, []) if issuer.capabilities else [] for name in ("subscribe", "publish")}
    if not all(_are_texts(value) for value in topics.values()):
        raise InvalidToken("subscribe and publish are lists of topics")
    issued_at, expires_at = _times(claims)
    return Principal(
        Kind.USER,
        user,
        account=account,
        subscribe=tuple(topics["subscribe"]),
        publish=tuple(topics["publish"]),
        expires_at=expires_at,
        issued_at=issued_at,
        credential=credential_of(token),
    )


def _times(claims: dict[str, Any]) -> tuple[float, float]:
    """When it was issued, 0 for unknown, and when it expires. Raises InvalidToken for one that lives too long.

    Its whole life counts, not only what is left: else a revocation could be forgotten before the token ends.
    """
    now, expires_at, issued_at = time.time(), claims["exp"], claims.get("iat", 0.0)
    if not all(type(moment) in (int, float) for moment in (expires_at, issued_at)):
        raise InvalidToken("exp and iat are numbers")
    issued_at = min(issued_at, now)  # A clock that is ahead must not save it from being revoked.
    if expires_at - (issued_at if "iat" in claims else now) > settings.CREDENTIAL_MAX_DAYS * DAY_SECONDS:
        raise InvalidToken("exp is too far ahead: see CREDENTIAL_MAX_DAYS")
    return float(issued_at), float(expires_at)


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
