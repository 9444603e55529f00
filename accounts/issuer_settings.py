"""JWT_ISSUERS: whose tokens are accepted. Read strictly: what is half right here lets the wrong callers in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import urlsplit

import jwt
import msgspec
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from msgspec import UNSET, UnsetType

from accounts import tokens
from accounts.jwks import FAMILIES

FIREBASE_CERTIFICATES = "https://www.googleapis.com/robot/v1/metadata/x509/securetoken@system.gserviceaccount.com"

Preset = Literal["cognito", "firebase", "auth0"]


@dataclass(frozen=True, slots=True)
class Issuer:
    """One whose tokens are accepted. It has a `jwks_url` or a `secret`; without `audiences` any will do."""

    name: str
    jwks_url: str
    secret: str = field(repr=False)
    algorithms: tuple[str, ...]
    audiences: frozenset[str]
    user_claim: str
    account_claim: str
    capabilities: bool
    preset: Preset | None


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One object of JWT_ISSUERS, as it is written."""

    issuer: str = ""
    preset: Preset | None = None
    project: str = ""
    domain: str = ""
    jwks_url: str = ""
    secret: str = ""
    algorithms: list[str] | UnsetType = UNSET
    audiences: list[str] | UnsetType = UNSET
    user_claim: str = "sub"
    account_claim: str = "account"
    capabilities: bool = False


def issuers() -> Mapping[str, Issuer]:
    """Those of the settings, by name. Raises ImproperlyConfigured."""
    return _read_once(msgspec.json.encode(settings.JWT_ISSUERS))


@lru_cache(maxsize=8)
def _read_once(text: bytes) -> Mapping[str, Issuer]:
    return read(msgspec.json.decode(text))


def read(value: Any) -> dict[str, Issuer]:
    """The issuers by name. Raises ImproperlyConfigured, which says where and what, and shows no secret."""
    if not isinstance(value, list):
        raise ImproperlyConfigured("JWT_ISSUERS is a JSON list of objects.")
    found: dict[str, Issuer] = {}
    for number, item in enumerate(value):
        try:
            issuer = _issuer(_with_preset(msgspec.convert(item, Entry)))
            if issuer.name in found:
                raise ValueError(f"{issuer.name} is there twice: one entry for each issuer.")
        except ValueError as error:  # msgspec's are some too.
            raise ImproperlyConfigured(f"JWT_ISSUERS[{number}]: {error}") from None
        found[issuer.name] = issuer
    return found


def weaknesses(issuer: Issuer) -> list[str]:
    """What will do while one tries things out, and not in production."""
    found = []
    if issuer.jwks_url.startswith("http:"):
        found.append(f"{issuer.name}: jwks_url has to begin with https://, or anyone on the way can give us keys.")
    # RFC 7518, 3.2: at least as long as the hash, which is 32 bytes and more.
    least = max((int(name[2:]) // 8 for name in issuer.algorithms if name.startswith("HS")), default=0)
    if len(issuer.secret.encode()) < least:
        found.append(f"{issuer.name}: secret has to be {least} characters long or longer, and random.")
    return found


def _with_preset(entry: Entry) -> Entry:
    """The entry with what its preset knows; what it says itself stays."""
    _want(not entry.project or entry.preset == "firebase", "project goes with the preset firebase.")
    _want(not entry.domain or entry.preset == "auth0", "domain goes with the preset auth0.")
    if entry.preset is None:
        return entry
    _want(not entry.secret, "a preset has a key set: it does not go with secret.")
    if entry.preset == "cognito":
        _want(bool(entry.issuer), "the preset cognito needs issuer: https://cognito-idp.<region>.amazonaws.com/<pool>.")
        return _filled(entry, jwks_url=f"{entry.issuer.rstrip('/')}/.well-known/jwks.json")
    if entry.preset == "firebase":
        _want(bool(re.fullmatch(r"[\w-]+", entry.project)), "the preset firebase needs project: the project's id.")
        name = f"https://securetoken.google.com/{entry.project}"
        return _filled(entry, issuer=name, jwks_url=FIREBASE_CERTIFICATES, audiences=[entry.project])
    _want(bool(re.fullmatch(r"[\w.-]+", entry.domain)), "the preset auth0 needs domain: the tenant's host name.")
    home = f"https://{entry.domain}/"
    return _filled(entry, issuer=home, jwks_url=f"{home}.well-known/jwks.json")


def _filled(entry: Entry, **defaults: Any) -> Entry:
    missing = {name: value for name, value in defaults.items() if getattr(entry, name) in ("", UNSET)}
    return msgspec.structs.replace(entry, **missing)


def _issuer(entry: Entry) -> Issuer:
    _want(bool(entry.issuer), "issuer is missing: the `iss` of its tokens, exactly.")
    _want(entry.issuer != tokens.ISSUER, f"{tokens.ISSUER} is the name of this service's own tokens.")
    _want(bool(entry.jwks_url) != bool(entry.secret), "give either jwks_url or secret.")
    _want(bool(entry.user_claim and entry.account_claim), "user_claim and account_claim are names of claims.")
    if entry.jwks_url:
        _check_address(entry.jwks_url)
    return Issuer(
        name=entry.issuer,
        jwks_url=entry.jwks_url,
        secret=entry.secret,
        algorithms=_algorithms(entry),
        audiences=_audiences(entry),
        user_claim=entry.user_claim,
        account_claim=entry.account_claim,
        capabilities=entry.capabilities,
        preset=entry.preset,
    )


def _algorithms(entry: Entry) -> tuple[str, ...]:
    default = ["HS256"] if entry.secret else ["RS256"]
    names = default if entry.algorithms is UNSET else entry.algorithms
    known = bool(names) and all(name in FAMILIES for name in names)
    _want(known, f"algorithms is a list of some of {', '.join(FAMILIES)}.")
    families = {FAMILIES[name] for name in names}
    _want(len(families) == 1, "algorithms are of one family: tokens must not choose between kinds of keys.")
    if entry.secret:
        _want(families == {"HMAC"}, "secret goes with HS256, HS384 or HS512 only; for others give jwks_url.")
        try:
            jwt.get_algorithm_by_name(names[0]).prepare_key(entry.secret)
        except jwt.InvalidKeyError:
            raise ValueError("secret looks like a public key, which is no secret: give jwks_url.") from None
    else:
        _want(families != {"HMAC"}, "HS256, HS384 and HS512 go with secret; what jwks_url shows is no secret.")
    return tuple(names)


def _audiences(entry: Entry) -> frozenset[str]:
    if entry.audiences is UNSET:
        raise ValueError("audiences is missing: those you accept, or [] to accept what the issuer made for anybody.")
    _want(all(text.strip() for text in entry.audiences), "an audience is empty: no token has it.")
    return frozenset(entry.audiences)


def _check_address(url: str) -> None:
    parts = urlsplit(url)
    plain = url.isascii() and url.isprintable() and " " not in url
    _want(
        plain and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0,
        "jwks_url is an https:// address.",
    )
    _want(parts.username is None and not parts.fragment, "jwks_url has neither user nor fragment.")


def _want(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
