"""Destinations: made, changed, given new secrets, deleted; each change has its entry in the audit."""

import base64
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import audit
from accounts.errors import ApiError
from accounts.principals import Principal
from accounts.requests import wrong
from accounts.signatures import PREFIX
from adapters import outbox
from adapters.base import Adapter, Misconfigured, Target, adapter_class, kinds
from adapters.models import Destination
from adapters.sealing import Unsealable, seal, unseal
from adapters.shapes import DestinationChange, NewDestination

SECRETS_MAX = 2  # While a secret is rotated, both sign.
UNSET = msgspec.UNSET


def adapter(destination: Destination) -> Adapter:
    """The adapter for a destination. Raises KeyError, Unsealable, or what the adapter does."""
    sealed = _unsealed(destination)
    target = Target(
        id=destination.pk,
        name=destination.name,
        address=destination.address,
        options={**destination.options, **sealed.options},
        secrets=sealed.secrets,
    )
    return adapter_class(destination.kind)(target)


def create(actor: Principal | None, wanted: NewDestination) -> tuple[Destination, str | None]:
    """A new destination -> it and its secret, if its kind signs; it is not shown again. Raises ApiError 409, 422."""
    destination = Destination(name=wanted.name, kind=wanted.kind)
    if wanted.kind not in kinds():
        raise wrong("kind", f"one of {', '.join(kinds())}")
    secret = _new_secret() if adapter_class(wanted.kind).signs else None
    if secret:
        destination.sealed = _Sealed([secret]).sealed()
    _apply(destination, wanted)
    with _name_free(), transaction.atomic():
        destination.save(force_insert=True)
        audit.record(actor, "destination.created", _subject(destination), after=as_dict(destination))
    outbox.forget_wants()
    return destination, secret


def change(actor: Principal | None, destination: Destination, changes: DestinationChange) -> None:
    """Changes what is given. Enabled again, a destination starts without its failures. Raises ApiError 422."""
    before = as_dict(destination)
    with _name_free(), transaction.atomic():
        destination = _locked(destination)
        _apply(destination, changes)
        destination.changed_at = timezone.now()
        if changes.enabled is True:
            destination.disabled_reason, destination.failures, destination.paused_until = "", 0, None
            destination.failing_since = None
        elif changes.enabled is False:
            destination.disabled_reason = "An operator has turned it off."
        destination.save(update_fields=_CHANGEABLE)
        audit.record(actor, "destination.changed", _subject(destination), before=before, after=as_dict(destination))
    outbox.forget_wants()


def rotate_secret(actor: Principal | None, destination: Destination) -> str:
    """A new secret; the one before signs too, until the next rotation. Raises ApiError 409 for a kind that has none."""
    if not adapter_class(destination.kind).signs:
        raise ApiError(409, "no_secret", f"A destination of kind {destination.kind} has no secret.")
    secret = _new_secret()
    with transaction.atomic():
        destination = _locked(destination)
        try:
            sealed = _unsealed(destination)
        except Unsealable:  # SECRETS_KEY is another one now: this is the way out.
            sealed = _Sealed()
        sealed.secrets = [secret, *sealed.secrets][:SECRETS_MAX]
        destination.sealed, destination.changed_at = sealed.sealed(), timezone.now()
        destination.save(update_fields=["sealed", "changed_at"])
        audit.record(actor, "destination.secret_rotated", _subject(destination))
    return secret


def delete(actor: Principal | None, destination: Destination) -> None:
    """Deletes a destination; what it was owed goes with it, in the background."""
    with transaction.atomic():
        audit.record(actor, "destination.deleted", _subject(destination), before=as_dict(destination))
        Destination.objects.filter(pk=destination.pk, deleted_at=None).update(
            deleted_at=timezone.now(), enabled=False, name=str(destination.pk), sealed=""
        )
    outbox.forget_wants()


def as_dict(destination: Destination) -> dict[str, Any]:
    """What the audit keeps."""
    return {
        "name": destination.name,
        "kind": destination.kind,
        "address": destination.address,
        "options": destination.options,
        "events": destination.events,
        "topics": destination.topics,
        "types": destination.types,
        "enabled": destination.enabled,
    }


_CHANGEABLE = [
    "name", "address", "options", "sealed", "events", "topics", "types", "enabled", "disabled_reason", "failures",
    "failing_since", "paused_until", "changed_at",
]  # fmt: skip


def _apply(destination: Destination, changes: DestinationChange) -> None:
    for name in ("name", "address", "events", "topics", "types", "enabled"):
        value = getattr(changes, name)
        if value is not UNSET:
            setattr(destination, name, value)
    kind = adapter_class(destination.kind)
    if changes.options is not UNSET:
        try:
            hidden = _unsealed(destination).options  # Nobody is shown these, so what is not given of them stays.
            options = msgspec.to_builtins(msgspec.convert({**hidden, **changes.options}, kind.Options))
        except Unsealable as error:
            raise ApiError(409, "wrong_state", f"{error} Rotate the secret first.") from None
        except msgspec.ValidationError as error:
            raise ApiError(422, "refused", f"options: {error}.", fields={"options": str(error)}) from None
        destination.options = {name: value for name, value in options.items() if name not in kind.hidden}
        if kind.hidden:
            sealed = _unsealed(destination)
            sealed.options = {name: options[name] for name in kind.hidden & options.keys()}
            destination.sealed = sealed.sealed()
    try:
        kind.validate(destination.address)
    except Misconfigured as error:
        raise ApiError(422, "refused", f"address: {error}", fields={"address": str(error)}) from None
    if unknown := sorted(set(destination.events) - set(outbox.EVENTS)):
        raise ApiError(
            422, "refused", f"events: there is no {', '.join(unknown)}; there are {', '.join(outbox.EVENTS)}."
        )


def _locked(destination: Destination) -> Destination:
    row = Destination.objects.select_for_update().filter(pk=destination.pk, deleted_at=None).first()
    if row is None:
        raise unknown()
    return row


@contextmanager
def _name_free() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise ApiError(409, "name_taken", "There is a destination of this name: choose another.") from None


def unknown() -> ApiError:
    return ApiError(404, "unknown_destination", "There is no destination with this id.")


def _subject(destination: Destination) -> str:
    return f"destination:{destination.pk}"


def _new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


class _Sealed(msgspec.Struct):
    """What of a destination is secret, as it is before it is sealed."""

    secrets: list[str] = []
    options: dict[str, Any] = {}

    def sealed(self) -> str:
        return seal(msgspec.json.encode(self).decode())


def _unsealed(destination: Destination) -> _Sealed:
    return msgspec.json.decode(unseal(destination.sealed), type=_Sealed) if destination.sealed else _Sealed()
