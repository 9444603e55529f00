"""EventBridge's API destinations, as moto does not make them: connection, parameters, input, retries, dead letters.

What AWS's documents leave open is decided so: an input that is one string goes out as that string, without quotes; a
parameter whose path is not in the event is left out, and in the path of the URL it makes a dead letter of the event.
"""

import base64
import json
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx
from moto.events import models
from moto.sqs.models import sqs_backends

from tests.emulators.aws_sns import RETRY_SECONDS

CALL_SECONDS = 5
RETRIED = (409, 429, 500, 502, 503, 504)
VARIABLE = re.compile(r"<([\w.-]+)>")
MISSING = object()

_pool = ThreadPoolExecutor(8, thread_name_prefix="eventbridge")
_send_to_targets = models.Rule.send_to_targets


class Undeliverable(Exception):
    """With AWS's code for it."""


def send_to_targets(rule: Any, original_event: Any, transform_input: bool = True) -> None:
    """API destinations are called here, in their own threads; the rest is moto's."""
    targets = rule.targets
    ours = [target for target in targets if ":api-destination/" in target["Arn"]]
    if ours and rule.state == "ENABLED" and rule.event_pattern.matches_event(original_event):
        event = readable(original_event)
        for target in ours:
            _pool.submit(deliver, rule, target, event)
    rest = [target for target in targets if target not in ours]
    if rest and rule.state == "ENABLED":
        rule.targets = rest
        try:
            _send_to_targets(rule, original_event, transform_input)
        finally:
            rule.targets = targets


def readable(event: Mapping[str, Any]) -> dict[str, Any]:
    """As a target sees it."""
    time = datetime.fromtimestamp(float(event["time"]), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {name: value for name, value in event.items() if name != "ingestion-time"} | {"time": time}


def deliver(rule: Any, target: Mapping[str, Any], event: dict[str, Any]) -> None:
    try:
        backend = models.events_backends[rule.account_id][rule.region_name]
        destination = backend.destinations[target["Arn"].split("api-destination/")[1].split("/")[0]]
        connection = next(c for c in backend.connections.values() if c.arn == destination.connection_arn)
        request = request_for(destination, connection, target, event)
    except (KeyError, StopIteration, Undeliverable) as error:
        dead_letter(rule, target, event, "INVALID_PARAMETER", str(error), 0)
        return
    attempts = min(target.get("RetryPolicy", {}).get("MaximumRetryAttempts", 185), len(RETRY_SECONDS))
    problem = ""
    for attempt in range(attempts + 1):
        if attempt:
            time.sleep(RETRY_SECONDS[attempt - 1])
        try:
            with httpx.Client(timeout=CALL_SECONDS, verify=False, trust_env=False) as client:
                response = client.send(request)
        except httpx.HTTPError as caught:
            problem = repr(caught)
            continue
        if response.is_success:
            return
        problem = f"HTTP {response.status_code}: {response.text[:200]}"
        if response.status_code not in RETRIED:
            break
    dead_letter(rule, target, event, "SDK_CLIENT_ERROR", problem, attempt)


def request_for(destination: Any, connection: Any, target: Mapping[str, Any], event: dict[str, Any]) -> httpx.Request:
    """With the parameters of the target, which those of the connection win over."""
    given = target.get("HttpParameters", {})
    headers = {"User-Agent": "Amazon/EventBridge/ApiDestinations", "Content-Type": "application/json; charset=utf-8"}
    headers |= filled(given.get("HeaderParameters", {}).items(), event)
    query = filled(given.get("QueryStringParameters", {}).items(), event)
    authorization = connection.auth_parameters
    extra = authorization.get("InvocationHttpParameters", {})
    headers |= pairs(extra.get("HeaderParameters", ()))
    query |= pairs(extra.get("QueryStringParameters", ()))
    if key := authorization.get("ApiKeyAuthParameters"):
        headers[key["ApiKeyName"]] = key["ApiKeyValue"]
    if basic := authorization.get("BasicAuthParameters"):
        secret = base64.b64encode(f"{basic['Username']}:{basic['Password']}".encode()).decode()
        headers["Authorization"] = f"Basic {secret}"
    url = destination.invocation_endpoint
    for value in given.get("PathParameterValues", ()):
        found = at(event, value)
        if found in (MISSING, None, ""):
            raise Undeliverable(f"{value} is not in the event")
        url = url.replace("*", quote(text_of(found), safe=""), 1)
    return httpx.Request(
        destination.http_method, url, params=query or None, headers=headers, content=body_for(target, event).encode()
    )


def pairs(parameters: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    return {parameter["Key"]: parameter["Value"] for parameter in parameters}


def filled(parameters: Iterable[tuple[str, str]], event: dict[str, Any]) -> dict[str, str]:
    found = {name: at(event, value) for name, value in parameters}
    return {name: text_of(value) for name, value in found.items() if value is not MISSING}


def body_for(target: Mapping[str, Any], event: dict[str, Any]) -> str:
    if "Input" in target:
        return str(target["Input"])
    if "InputPath" in target:
        return text_of(at(event, target["InputPath"]))
    transformer = target.get("InputTransformer")
    if transformer is None:
        return json.dumps(event)
    values = {name: at(event, path) for name, path in transformer.get("InputPathsMap", {}).items()}
    values["aws.events.event.json"] = values["aws.events.event"] = event
    template = transformer["InputTemplate"].strip()
    alone = VARIABLE.fullmatch(template)
    if alone:
        return text_of(values.get(alone[1], ""))
    return templated(template, values)


def templated(template: str, values: Mapping[str, Any]) -> str:
    """A variable inside of quotes becomes its text, outside of them its JSON; one that is not there becomes nothing."""

    def text(name: re.Match[str]) -> str:
        return json.dumps(text_of(values.get(name[1], MISSING)))[1:-1]

    def value(name: re.Match[str]) -> str:
        found = values.get(name[1], MISSING)
        return "" if found is MISSING else json.dumps(found)

    parts = re.split(r'("(?:[^"\\]|\\.)*")', template)
    filled = "".join(VARIABLE.sub(text if index % 2 else value, part) for index, part in enumerate(parts))
    return str(json.loads(filled)) if filled.startswith('"') else filled


def at(event: dict[str, Any], path: str) -> Any:
    """What `$.detail.name` and the like point to; what is no path is itself."""
    if not path.startswith("$"):
        return path
    found: Any = event
    for name in path.removeprefix("$").strip(".").split("."):
        if name and not (isinstance(found, dict) and name in found):
            return MISSING
        found = found[name] if name else found
    return found


def text_of(value: Any) -> str:
    if value is MISSING:
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def dead_letter(
    rule: Any, target: Mapping[str, Any], event: dict[str, Any], code: str, message: str, retries: int
) -> None:
    arn = target.get("DeadLetterConfig", {}).get("Arn")
    if not arn:
        return
    about = {
        "RULE_ARN": rule.arn,
        "TARGET_ARN": target["Arn"],
        "ERROR_CODE": code,
        "ERROR_MESSAGE": message or code,
        "RETRY_ATTEMPTS": str(retries),
    }
    attributes = {name: {"DataType": "String", "StringValue": value} for name, value in about.items()}
    _, _, _, region, account, name = arn.split(":")
    sqs_backends[account][region].send_message(name, json.dumps(event), message_attributes=attributes)


def patch(_aws: Any) -> None:
    setattr(models.Rule, send_to_targets.__name__, send_to_targets)
