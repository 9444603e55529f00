"""AWS for the real boto3: moto's server in a thread, with the tests' failures in front of it."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import boto3
from botocore.config import Config
from moto import settings as moto_settings
from moto.core.authorization import ActionAuthenticatorMixin
from moto.core.base_backend import BackendDict
from moto.core.model_instances import reset_model_data
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from tests.emulators import aws_batches, aws_events, aws_sns, aws_sqs, aws_sts

HOST = "127.0.0.1"
REGION = "us-east-1"
ACCOUNT = "123456789012"
CORS = [("Access-Control-Allow-Origin", "*")]
ALLOWED_HEADERS = "authorization, content-type, x-amz-date, x-amz-security-token, x-amz-target"


@dataclass
class Failure:
    """How calls of one operation go wrong. `late` ones have had their effect."""

    status: int
    code: str
    times: int | None
    seconds: float
    late: bool
    entries: frozenset[int]


class Aws:
    """What the tests see of it. Everything may be called from any thread."""

    def __init__(self) -> None:
        for patch in (aws_sqs.patch, aws_sns.patch, aws_events.patch, aws_batches.patch, aws_sts.patch):
            patch(self)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._failures: dict[str, Failure] = {}
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._clients: dict[str, Any] = {}
        self._server = make_server(HOST, 0, self._app, threaded=True, request_handler=QuietHandler)
        self._server.daemon_threads = True  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.endpoint_url = f"http://{HOST}:{self._server.server_port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, service: str, **options: Any) -> Any:
        """A boto3 client for the tests, that does not retry; without options the same each time."""
        if not options and service in self._clients:
            return self._clients[service]
        given: dict[str, Any] = {
            "endpoint_url": self.endpoint_url,
            "region_name": REGION,
            "aws_access_key_id": "testing",
            "aws_secret_access_key": "testing",
            "config": Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=30),
        }
        client: Any = boto3.client  # Its stubs want the service's name as a literal.
        made = client(service, **{**given, **options})
        return made if options else self._clients.setdefault(service, made)

    def reset(self) -> None:
        self.heal()
        self._calls.clear()
        moto_settings.INITIAL_NO_AUTH_ACTION_COUNT = float("inf")
        BackendDict.reset()
        reset_model_data()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(
        self,
        operation: str,
        *,
        status: int = 400,
        code: str = "ThrottlingException",
        times: int | None = None,
        seconds: float = 0,
        late: bool = False,
        entries: Iterable[int] = (),
    ) -> None:
        """Calls of `operation` ("SendMessageBatch", ...; "*" is any) fail so often, or until `heal`.

        `seconds` is how long the answer takes; `status` 0 lets the call pass after it. Late: after their effect.
        Of a batch only those `entries` fail, by their index; a status of 500 and more says that we are to blame.
        """
        with self._lock:
            self._failures[operation] = Failure(status, code, times, seconds, late, frozenset(entries))

    def failing_entries(self, operation: str) -> Failure | None:
        """Which entries of the batch that came are to fail."""
        with self._lock:
            failure = self._failures.get(operation)
            return self._take_failure(operation) if failure and failure.entries else None

    def enforce_iam(self) -> None:
        """From now on every call has to be allowed by the policies of its key; until the reset."""
        moto_settings.INITIAL_NO_AUTH_ACTION_COUNT = 0
        ActionAuthenticatorMixin.request_count = 0

    def heal(self) -> None:
        with self._lock:
            self._failures.clear()

    def calls(self, operation: str) -> int:
        """How many there were since the reset, also those that failed."""
        return self._calls[operation]

    def _app(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "OPTIONS":  # A browser asks; nobody has signed that.
            start_response("200 OK", [*CORS, ("Access-Control-Allow-Headers", ALLOWED_HEADERS)])
            return []
        if environ["PATH_INFO"].endswith(aws_sns.CERTIFICATE_NAME):
            start_response("200 OK", [("Content-Type", "application/x-pem-file")])
            return [aws_sns.certificate()]
        if "Action=ConfirmSubscription" in environ["QUERY_STRING"]:  # By the link, so nobody signed it.
            environ["HTTP_AUTHORIZATION"] = f"AWS4-HMAC-SHA256 Credential=link/20260101/{REGION}/sns/aws4_request, "
        operation = operation_of(self._moto, environ)
        with self._lock:
            self._calls[operation] += 1
            failure = self._failures.get(operation)
            failure = None if failure and failure.entries else self._take_failure(operation)
        if failure is None:
            return self._moto(environ, start_response)  # type: ignore[no-any-return]
        if failure.seconds:
            time.sleep(failure.seconds)
        if not failure.status:
            return self._moto(environ, start_response)  # type: ignore[no-any-return]
        if failure.late:
            list(self._moto(environ, lambda *_: None))
        return answer(environ, failure, start_response)

    def _take_failure(self, operation: str) -> Failure | None:
        for name in (operation, "*"):
            failure = self._failures.get(name)
            if failure is None:
                continue
            if failure.times is not None:
                failure.times -= 1
                if failure.times <= 0:
                    del self._failures[name]
            return failure
        return None


class QuietHandler(MotoRequestHandler):
    def log(self, type: str, message: str, *arguments: Any) -> None:
        pass


def operation_of(moto: DomainDispatcherApplication, environ: dict[str, Any]) -> str:
    """SendMessage, Publish, ...: of the JSON protocol's header, or of the form."""
    target: str = environ.get("HTTP_X_AMZ_TARGET", "")
    if target:
        return target.rpartition(".")[2]
    form = parse_qs(moto._get_body(environ) or "")
    return form.get("Action", [""])[0]


def answer(environ: dict[str, Any], failure: Failure, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """AWS's error in the protocol of the request."""
    if environ.get("HTTP_X_AMZ_TARGET"):
        kind, body = "application/x-amz-json-1.0", json.dumps({"__type": failure.code, "message": "As ordered"})
    else:
        kind = "text/xml"
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{failure.code}</Code><Message>As ordered</Message>"
            "</Error><RequestId>0</RequestId></ErrorResponse>"
        )
    content = body.encode()
    start_response(f"{failure.status} Failure", [("Content-Type", kind), ("Content-Length", str(len(content))), *CORS])
    return [content]
