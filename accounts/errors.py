"""The one error that services raise for a caller's mistake; HTTP and the socket each turn it into their own shape."""


class ApiError(Exception):
    """A refusal that the caller can act on.

    `status` is the HTTP status, `code` a stable snake_case name, `message` says what to do about it;
    `fields` maps a field's path to what is wrong with it; `retry_after` is in seconds.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fields: dict[str, str] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields
        self.retry_after = retry_after

    def as_dict(self) -> dict[str, object]:
        """The `error` object of the API."""
        body: dict[str, object] = {"code": self.code, "message": self.message}
        if self.fields:
            body["fields"] = self.fields
        return body
