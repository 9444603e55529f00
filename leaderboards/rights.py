"""Who may read a board, and who may submit to it."""

from django.conf import settings

from accounts.errors import ApiError
from accounts.principals import Kind, Principal
from leaderboards.models import Board
from realtime.authorizers import require_now

KIND = "board"
READ, WRITE = "leaderboards:read", "leaderboards:write"


def topic_of(board: str) -> str:
    return f"{KIND}.{board}"


def board_of(topic: str) -> str:
    return topic.removeprefix(f"{KIND}.")


def may_read(principal: Principal | None, name: str, board: Board | None) -> bool:
    """Whether the caller, None for one without a credential, may read the board of this name.

    One that does not exist is for users to read, so that nobody learns from a refusal which there are.
    """
    if principal is None:
        return board is not None and board.read == Board.Read.PUBLIC
    if principal.is_backend:
        return principal.has_scope(READ)
    if principal.can_subscribe(topic_of(name)):
        return True
    return principal.kind is Kind.USER and (board is None or board.read != Board.Read.SERVICE)


def require_read(principal: Principal | None, name: str, board: Board | None) -> None:
    """Raises ApiError 401 and 403 for who may not read the board, 503 where nobody can say.

    An authoriser of TOPIC_AUTHORIZERS decides about users, unless the board is public.
    """
    is_public = may_read(None, name, board)
    if principal is None:
        if not is_public:
            raise ApiError(401, "unauthenticated", "This board is not public: send a credential.")
    elif principal.is_backend:
        principal.require_scope(READ)
    elif principal.kind is Kind.USER and KIND in settings.TOPIC_AUTHORIZERS and not is_public:
        require_now(principal, "subscribe", topic_of(name))
    elif not may_read(principal, name, board):
        raise ApiError(403, "denied", "This credential may not read this board.")


def require_submit(principal: Principal, board: Board | None) -> None:
    """Raises ApiError 403 for who may not submit to the board at all; a user may for their own name only: `is_own`."""
    if principal.is_backend:
        principal.require_scope(WRITE)
    elif principal.acts is None or board is None or board.submit != Board.Submit.SELF:
        raise ApiError(403, "denied", "Scores of this board come from services only.")


def is_own(principal: Principal, name: str) -> bool:
    """Whether the caller may submit for this name, where it may submit."""
    return principal.is_backend or principal.acts == name
