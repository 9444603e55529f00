"""Start-up checks: what would let the wrong callers in, or keep the right ones out, with the setting to change."""

from ipaddress import ip_network
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured

from accounts import issuer_settings, throttles


@register()
def check_jwt_issuers(**_options: Any) -> list[CheckMessage]:
    """JWT_ISSUERS can be read, and in production has no entry that is weak."""
    try:
        issuers = issuer_settings.read(settings.JWT_ISSUERS)
    except ImproperlyConfigured as error:
        return [Error(str(error), hint="docs/settings.md has an example.", id="accounts.E001")]
    weak = [f"JWT_ISSUERS: {text}" for issuer in issuers.values() for text in issuer_settings.weaknesses(issuer)]
    if settings.PRODUCTION:
        return [Error(text, id="accounts.E002") for text in weak]
    return [Warning(text, hint="With PRODUCTION=1 this is refused.", id="accounts.W002") for text in weak]


@register()
def check_credential_days(**_options: Any) -> list[CheckMessage]:
    if settings.CREDENTIAL_MAX_DAYS >= 1:
        return []
    return [Error("CREDENTIAL_MAX_DAYS is at least 1: with less, no token is good.", id="accounts.E003")]


@register()
def check_rates(**_options: Any) -> list[CheckMessage]:
    problems: list[CheckMessage] = []
    for name in ("RATE_SERVICE", "RATE_USER", "RATE_ADDRESS", "RATE_LOGIN"):
        try:
            throttles.parse(getattr(settings, name))
        except ImproperlyConfigured as error:
            problems.append(Error(f"{name}: {error}", id="accounts.E004"))
    return problems


@register()
def check_trusted_proxies(**_options: Any) -> list[CheckMessage]:
    """Each is an address or a network, and none is everybody: then X-Forwarded-For could say anything."""
    problems: list[CheckMessage] = []
    for entry in settings.TRUSTED_PROXIES:
        try:
            wrong = "" if ip_network(entry).prefixlen else "this trusts everybody"
        except ValueError as error:
            wrong = str(error)
        if wrong:
            problems.append(Error(f"TRUSTED_PROXIES, {entry}: {wrong}.", id="accounts.E005"))
    return problems
