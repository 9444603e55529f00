"""The one error that this package raises for what goes wrong between it and the server."""

from collections.abc import Mapping


class FanfareError(Exception):
    """What was asked for was not done, or nobody knows.

    `status` is the HTTP status, the close code of a socket (4000 and above), or 0 where no answer came. `code` is a
    stable name: one of the server's (docs/notifications.md, "Errors"; docs/protocol.md), or

    - `unreachable`: there is no connection; nothing was done.
    - `no_answer`: the connection broke, or time was over, before the answer: it may have been done.
    - `bad_reply`: an answer that is not Fanfare's. `message` says what to look at.

    `message` says what to do about it, `fields` which fields are wrong, `retry_after` (seconds) when to come back,
    `request_id` what the server's log knows the request by.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fields: Mapping[str, str] | None = None,
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(status, code, message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = dict(fields or {})
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        known = [str(self.status)] if self.status else []
        known += [f"request {self.request_id}"] if self.request_id else []
        return f"{self.code}: {self.message}" + (f" ({', '.join(known)})" if known else "")


class InvalidSignature(ValueError):
    """A webhook that was not signed with this secret, or too long ago."""
