"""Clients of AWS, and what its errors mean.

Region, credentials and endpoint come from where boto3 looks for them: the environment, a profile, the machine's role.
"""

import os
import re
import threading
from collections.abc import Mapping
from functools import cache
from typing import Any

from django.conf import settings

from adapters.base import Misconfigured, Outcome

CONNECTIONS = 200  # Of one client, kept open at most.
THROTTLED_SECONDS = 1.0  # AWS does not say when to come again.

_THROTTLED = {
    "LimitExceededException", "OverLimit", "PriorRequestNotComplete", "ProvisionedThroughputExceededException",
    "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException", "SlowDown", "Throttled",
    "ThrottledException", "Throttling", "ThrottlingException", "TooManyRequestsException",
}  # fmt: skip
_CREDENTIALS = {
    "403", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId",
    "InvalidClientTokenId", "InvalidSecurity", "MissingAuthenticationToken", "NotAuthorized",
    "RequestExpired", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip
_DENIED = {
    "AccessDenied", "AccessDeniedException", "AuthorizationError", "AuthorizationErrorException", "KMSAccessDenied",
    "KMSAccessDeniedException", "KmsAccessDenied", "UnauthorizedOperation",
}  # fmt: skip
_MISSING = {
    "AWS.SimpleQueueService.NonExistentQueue", "NonExistentQueue", "NotFound", "NotFoundException",
    "QueueDoesNotExist", "ResourceNotFoundException",
}  # fmt: skip
_ABOUT_CONTENT = {"BatchRequestTooLong", "InvalidMessageContents", "MalformedDetail"}
_TOO_LARGE = re.compile(r"(?i)too (long|large|big)|shorter than|exceed|size limit")  # Of what else is just "invalid".


_making = threading.Lock()


def client(service: str, *, timeout: float | None = None) -> Any:
    """The client of a service, one in each process; threads may share it.

    `timeout`: seconds for a call to be answered, DELIVERY_TIMEOUT if none. Nothing is repeated: whoever calls does so.
    It blocks, above all the first time, when it looks for credentials. Raises Misconfigured.
    """
    with _making:
        return _client(service, settings.DELIVERY_TIMEOUT if timeout is None else timeout)


@cache
def _client(service: str, timeout: float) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=min(5.0, timeout / 2),
        read_timeout=timeout,
        retries={"mode": "standard", "total_max_attempts": 1},
        max_pool_connections=CONNECTIONS,
        user_agent_extra="fanfare",
    )
    try:
        # boto3 does not read AWS_REGION, though AWS sets it in its containers; its stubs want the service as a literal.
        session: Any = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
        if session.get_credentials() is None:
            raise Misconfigured("There are no credentials for AWS: give this process a role, or AWS_ACCESS_KEY_ID.")
        return session.client(service, config=config)
    except (BotoCoreError, ValueError) as error:
        raise Misconfigured(f"AWS cannot be used: {error} Set AWS_REGION.") from None


def forget() -> None:
    """The next clients are made anew, by what the environment says then."""
    _client.cache_clear()


def _forget_in_child() -> None:
    """Connections belong to one process; and who held the lock, is not in this one."""
    global _making
    _making = threading.Lock()
    forget()


os.register_at_fork(after_in_child=_forget_in_child)


def failure(error: Exception, wanted: str) -> Outcome:
    """What an error of a call means for what was sent with it. `wanted`: what was asked for, as operators read it."""
    from botocore.exceptions import (
        ClientError,
        ConnectionError,
        ConnectTimeoutError,
        HTTPClientError,
        ReadTimeoutError,
    )

    match error:
        case ClientError():
            return _refusal(error.response, wanted)
        case TimeoutError() | ReadTimeoutError() | ConnectTimeoutError():
            return Outcome(f"no answer within {settings.DELIVERY_TIMEOUT:g} s (DELIVERY_TIMEOUT)")
        case Misconfigured():
            return Outcome(str(error))
        case ConnectionError() | HTTPClientError() | OSError():
            return Outcome(f"cannot reach AWS: {error}"[:500])
    return Outcome(f"{type(error).__name__}: {error}"[:500])


def is_missing(error: Exception) -> bool:
    """Whether AWS says that what was asked for does not exist."""
    from botocore.exceptions import ClientError

    return isinstance(error, ClientError) and _code(error.response) in _MISSING


def refused(code: str, message: str, wanted: str) -> Outcome:
    """What it means that AWS has answered with an error, be it for a call or for one entry of it."""
    response = f"{code} {message}".strip()[:500]
    if code in _THROTTLED or "Throttl" in code:
        return Outcome(f"AWS asks for less at once ({code})", retry_after=THROTTLED_SECONDS, response=response)
    if code in _MISSING:
        return Outcome(
            f"there is nothing of this name: {wanted}. Check address, AWS_REGION and account", response=response
        )
    if code in _DENIED:
        return Outcome(f"not allowed: the role or user of this service needs the right to {wanted}", response=response)
    if code in _CREDENTIALS:
        return Outcome(f"AWS refuses the credentials, or they have no right to {wanted}", response=response)
    if code in _ABOUT_CONTENT or (code.startswith(("Invalid", "Validation")) and _TOO_LARGE.search(message)):
        return Outcome(f"refused as it is ({code})", permanent=True, blames_event=True, response=response)
    return Outcome(f"AWS answers {code}", response=response)


def _refusal(response: Mapping[str, Any], wanted: str) -> Outcome:
    return refused(_code(response), str(response.get("Error", {}).get("Message", "")), wanted)


def _code(response: Mapping[str, Any]) -> str:
    code = response.get("Error", {}).get("Code") or response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return str(code or "an error").rpartition("#")[2]
