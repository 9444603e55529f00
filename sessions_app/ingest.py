"""Records of Reuters' kind that are for one session: it has to be that of the user who is named with it."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from accounts.errors import ApiError
from adapters.ingest import Outcome, Record
from adapters.ingest_settings import Source
from notifications import ingest
from notifications.ingest_shapes import ReutersRecord
from sessions_app.models import BrowserSession


def reuters(source: Source, records: Sequence[Record]) -> Sequence[Outcome]:
    """As notifications.ingest has it. Another user's session is refused: there, ids are of one user, here of all."""
    named = {record.key: pair for record in records if (pair := _named(record))}
    found = BrowserSession.objects.filter(pk__in={session for session, _user in named.values()})
    owners = dict(found.values_list("pk", "user")) if named else {}
    strangers = {key for key, (session, user) in named.items() if owners.get(session, user) != user}
    outcomes = iter(ingest.reuters(source, [record for record in records if record.key not in strangers]))
    return [_refusal() if record.key in strangers else next(outcomes) for record in records]


def _named(record: Record) -> tuple[str, str] | None:
    """Session and user, where there are both."""
    try:
        wanted = msgspec.json.decode(record.body, type=ReutersRecord)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None  # It is refused in other words.
    if wanted.session is UNSET or wanted.user is UNSET:
        return None
    return str(wanted.session), str(wanted.user)


def _refusal() -> ApiError:
    why = "sessionId is not a session of this userId."
    return ApiError(422, "refused", why, fields={"sessionId": why})
