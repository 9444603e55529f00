"""Who may subscribe and publish: the topic's class, and for the rest the authoriser of its kind.

TOPIC_AUTHORIZERS names one for a kind: a dotted path of `may(action, topic, principal) -> bool`, or a URL that gets
`POST {"action", "topic", "user", "account"}`, signed as accounts.signatures says, and answers with status 200 and
`{"allow": bool, "ttl"?: seconds}`. What the class of the topic, a scope or a capability allows is allowed without
asking. Only users are asked about: services and operators have their scopes, and scoped tokens their topics. An
authoriser that does not answer as it should allows nothing.

The functions that end in `_now` wait: they are for threads. The others are for the event loop.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from django.conf import settings

from accounts.errors import ApiError
from accounts.principals import Kind, Principal
from realtime.asking import Action, Question, desk
from realtime.topics import Topic, resolve

QUESTIONS_MAX = 200  # Of one call, or as many as a connection may have topics.


async def refusals(principal: Principal, action: Action, names: Iterable[str]) -> dict[str, ApiError]:
    """Those topics with which the caller may not do this, and why: what is not in there is allowed.

    The reasons are ApiError 400 and 403, and 503 `authorizer_unavailable`. Authorisers are asked about all topics at
    once, and not again after one has failed. Raises ApiError 403 where that would be more than QUESTIONS_MAX.
    """
    refused, questions = _without_asking(principal, action, names)
    if questions:
        answers = await asyncio.wrap_future(desk().ask(questions))
        refused |= _refused(action, answers)
    return refused


def refusals_now(principal: Principal, action: Action, names: Sequence[str]) -> dict[str, ApiError]:
    """`refusals`, for threads; also to send to where nobody can be is refused."""
    refused, questions = _without_asking(principal, action, names)
    if questions:
        refused |= _refused(action, desk().ask(questions).result())
    if action == "publish":
        refused |= _missing(name for name in dict.fromkeys(names) if name not in refused)
    return refused


async def require(principal: Principal, action: Action, name: str) -> None:
    """Raises ApiError 400, 403 or 503 unless the caller may do this with the topic."""
    for error in (await refusals(principal, action, [name])).values():
        raise error


def require_now(principal: Principal, action: Action, name: str) -> None:
    """`require`, for threads."""
    for error in refusals_now(principal, action, [name]).values():
        raise error


# --- What needs no question -----------------------------------------------------------------------


def _without_asking(
    principal: Principal, action: Action, names: Iterable[str]
) -> tuple[dict[str, ApiError], list[Question]]:
    """The topics that are refused already, and the questions that are left."""
    refused: dict[str, ApiError] = {}
    questions: list[Question] = []
    for name in dict.fromkeys(names):
        found = _decide(principal, action, name)
        if isinstance(found, ApiError):
            refused[name] = found
        elif found:
            questions.append(found)
    most = max(QUESTIONS_MAX, settings.TOPICS_PER_CONNECTION)
    if len(questions) > most:
        raise ApiError(403, "too_many_topics", f"At most {most} topics at once for which somebody has to be asked.")
    return refused, questions


def _decide(principal: Principal, action: Action, name: str) -> ApiError | Question | None:
    try:
        topic = resolve(name)
    except ApiError as error:
        return error
    if (topic.may_subscribe if action == "subscribe" else topic.may_publish)(principal, name):
        return None
    authorizer = settings.TOPIC_AUTHORIZERS.get(name.partition(".")[0], topic.authorizer)
    if authorizer is None or principal.kind is not Kind.USER:
        return _refusal(action, name, False)
    question = Question(authorizer, action, name, principal)
    allowed = desk().answers.get(question.key)
    if allowed is None:
        return question
    return None if allowed else _refusal(action, name, False)


def _missing(names: Iterable[str]) -> dict[str, ApiError]:
    """One question for each kind of topics."""
    kinds: dict[Topic, list[str]] = {}
    for name in names:
        kinds.setdefault(resolve(name), []).append(name)
    return {name: error for topic, some in kinds.items() for name, error in topic.missing(some).items()}


def _refused(action: Action, answers: Mapping[str, bool | None]) -> dict[str, ApiError]:
    return {name: _refusal(action, name, answer) for name, answer in answers.items() if not answer}


def _refusal(action: Action, name: str, answer: bool | None) -> ApiError:
    what = f"{'subscribe' if action == 'subscribe' else 'send'} to {name[:100]}"
    if answer is None:
        message = f"Whether you may {what} cannot be asked now: try again."
        return ApiError(503, "authorizer_unavailable", message, retry_after=2)
    return ApiError(403, "denied", f"This credential may not {what}.")
