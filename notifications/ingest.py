"""Records from outside become messages and tasks: the handlers that INGEST_HANDLERS names.

A record keeps the rules that a request has to keep, and is refused in the same words.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from django.conf import settings
from msgspec import UNSET

from accounts.errors import ApiError
from accounts.idempotency import Claim
from accounts.principals import Kind, Principal
from accounts.requests import require_id, shaped, wrong
from adapters.ingest import Outcome, Record
from adapters.ingest_settings import Source
from notifications import handlers, handoff, work
from notifications.drafts import TYPE_MAX, checked_type, draft, encoded
from notifications.ingest_shapes import AnyId, ReutersRecord, SumuRecord, TaskRecord
from notifications.log import Draft, Result, accept
from notifications.shapes import Notification, Target
from realtime.strict_json import RefusedJSON, loads

USERS_AT_ONCE = 1000
TYPE = "message"


def notification(source: Source, records: Sequence[Record]) -> Sequence[Outcome]:
    """The body of `POST /api/notifications`, as a service sends it."""
    return _send(source, records, lambda _, value: [shaped(value, Notification)])


def sumu(source: Source, records: Sequence[Record]) -> Sequence[Outcome]:
    """`{"users"?, "exclude_users"?, "data"}`; the type is the data's own, if it has one."""
    return _send(source, records, _sumu)


def reuters(source: Source, records: Sequence[Record]) -> Sequence[Outcome]:
    """`{"accountId"?, "userId"?, "_type"?, "_sqs_only"?, "messageId"?, …}`: all of it is the message."""
    return _send(source, records, _reuters)


def task(source: Source, records: Sequence[Record]) -> Sequence[Outcome]:
    """`{"user", "type"?, "payload"?}`, or just a text: `{"userId", "data"}`."""
    return [_create_task(source, record) for record in records]


# --- From a record to notifications ---------------------------------------------------------------


def _sumu(_record: Record, value: Any) -> list[Notification]:
    wanted = shaped(value, SumuRecord)
    type = _type_within(wanted.data)
    if wanted.users is UNSET:
        return [Notification(Target(all=True), wanted.data, type, exclude_users=_texts(wanted.exclude_users))]
    users, most = _texts(wanted.users), min(USERS_AT_ONCE, settings.BATCH_MAX_MESSAGES)
    parts = (users[start : start + most] for start in range(0, len(users), most))
    return [Notification(Target(users=part), wanted.data, type) for part in parts]


def _texts(ids: Sequence[AnyId]) -> list[str]:
    """Ids as texts, each once."""
    return list(dict.fromkeys(str(id) for id in ids))


def _type_within(data: Any) -> str:
    type = data.get("type") if isinstance(data, dict) else None
    return type if isinstance(type, str) and type.isprintable() and 1 <= len(type) <= TYPE_MAX else TYPE


def _reuters(record: Record, value: Any) -> list[Notification]:
    wanted = shaped(value, ReutersRecord)
    if wanted.type in ("account", "user"):
        return []  # These tell of sessions, and were never sent to anybody.
    message_id = record.key if wanted.message_id is UNSET else str(wanted.message_id)
    data = {**value, "messageId": message_id}
    return [
        Notification(_reuters_target(wanted, value), data, wanted.type, key=message_id, store="_sqs_only" not in value)
    ]


def _reuters_target(wanted: ReutersRecord, value: Mapping[str, Any]) -> Target:
    if wanted.session is not UNSET:
        return Target(session=str(wanted.session))
    if wanted.user is not UNSET:
        return Target(user=str(wanted.user))
    if wanted.account is not UNSET:
        return Target(account=str(wanted.account))
    for field in value:  # Nobody named is everyone: what looks like a name must not pass for content.
        if field.replace("_", "").lower() in ("accountid", "userid", "sessionid"):
            raise _refused(field, "is written accountId, userId or sessionId")
    return Target(all=True)


# --- From notifications to the log ----------------------------------------------------------------


def _send(
    source: Source, records: Sequence[Record], read: Callable[[Record, Any], list[Notification]]
) -> list[Outcome]:
    return send(source, [(record, _read(record, read)) for record in records])


def _read(record: Record, read: Callable[[Record, Any], list[Notification]]) -> list[Notification] | ApiError:
    try:
        return read(record, value_of(record))
    except ApiError as error:
        return error


def send(source: Source, found: Iterable[tuple[Record, Sequence[Notification] | ApiError]]) -> list[Outcome]:
    """Accepts the notifications that were found in records, all together -> an outcome for each record."""
    read_in: list[list[Draft] | ApiError] = []
    for record, notifications in found:
        try:
            if isinstance(notifications, ApiError):
                raise notifications
            read_in.append([_draft(source, record, part, wanted) for part, wanted in enumerate(notifications)])
        except ApiError as error:
            read_in.append(error)
    results = _accept([one for drafts in read_in if isinstance(drafts, list) for one in drafts])
    return [one if isinstance(one, ApiError) else _outcome(list(islice(results, len(one)))) for one in read_in]


def value_of(record: Record) -> Any:
    """The record's JSON. Raises ApiError 400."""
    try:
        return loads(record.body)
    except RefusedJSON as error:
        raise ApiError(400, "malformed_json", f"The record is not JSON that is taken here: {error}.") from error


def _draft(source: Source, record: Record, part: int, wanted: Notification) -> Draft:
    """Each part of a record has a claim of its own: parts may be stored apart, and those that are, stay."""
    sender = Principal(Kind.SERVICE, _name(source), scopes=frozenset({"notifications:write"}))
    made = draft(wanted, sender, claim_of(source, record, part))
    if "all" in made.topics and not source.broadcasts:
        raise ApiError(403, "denied", "This source may not send to everyone (INGEST_SOURCES: broadcasts).")
    return made


def _accept(drafts: Sequence[Draft]) -> Iterator[Result]:
    """In one transaction, unless that would be more than BATCH_MAX_MESSAGES messages."""
    some: list[Draft] = []
    results: list[Result] = []
    for one in drafts:
        if sum(len(other.topics) for other in some) + len(one.topics) > settings.BATCH_MAX_MESSAGES:
            results += accept(some)
            some = []
        some.append(one)
    return iter(results + accept(some))


def _outcome(results: Sequence[Result]) -> Outcome:
    for result in results:
        if result.refused:
            return in_words_for_records(result.refused)
    return [one.id for result in results for one in result.accepted]


# --- Tasks ----------------------------------------------------------------------------------------


def _create_task(source: Source, record: Record) -> Outcome:
    try:
        task_id, replayed = work.create(*_task(value_of(record)), claim_of(source, record))
    except ApiError as error:
        if error.retry_after is not None:
            raise
        return in_words_for_records(error)
    if not replayed:
        handoff.hand(task_id)
    return [str(task_id)]


def _task(value: Any) -> tuple[str, str, bytes]:
    """User, type and payload."""
    wanted = shaped(value, TaskRecord)
    if (wanted.user is UNSET) == (wanted.userId is UNSET):
        raise wrong("user", "either user or userId")
    if wanted.data is not UNSET and wanted.payload is not UNSET:
        raise wrong("payload", "either payload or data")
    user = str(wanted.userId) if wanted.user is UNSET else wanted.user
    payload = {"data": wanted.data} if wanted.data is not UNSET else wanted.payload
    type = handlers.require(checked_type(wanted.type))
    return require_id("user", user), type, encoded(None if payload is UNSET else payload)


# --- What they share ------------------------------------------------------------------------------


def _name(source: Source) -> str:
    return f"ingest:{source.name}"


def claim_of(source: Source, record: Record, part: int = 0) -> Claim:
    """The right to take (a part of) a record once."""
    route = f"ingest.{part}" if part else "ingest"
    return Claim(_name(source), route, record.key, hashlib.sha256(record.body).hexdigest())


def in_words_for_records(error: ApiError) -> ApiError:
    """The refusal, where a record has no Idempotency-Key that it could speak of."""
    if error.code != "idempotency_mismatch":
        return error
    return ApiError(error.status, error.code, "An earlier record with this id had another body, and that one counts.")


def _refused(field: str, why: str) -> ApiError:
    return ApiError(422, "refused", f"{field} {why}.", fields={field: why})
