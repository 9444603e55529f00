"""The OpenAPI schema learns msgspec shapes."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction

from adapters.fetch_shapes import ClientMessages, ReceiveRequest
from notifications.event_shapes import Items
from sessions_app.shapes import ReceivedMessages, SessionReceive

REFERENCE = "#/components/schemas/{name}"


class MsgspecShape(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]
    target_class = "msgspec.Struct"
    match_subclasses = True

    def get_name(self, auto_schema: AutoSchema, direction: Direction) -> str:
        return str(self.target.__name__)

    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        (reference,), components = msgspec.json.schema_components([self.target], ref_template=REFERENCE)
        own = reference["$ref"].rpartition("/")[2] if "$ref" in reference else None
        for shape in _all_shapes(msgspec.Struct):
            if shape.__name__ in components and shape.__name__ != own:
                auto_schema.resolve_serializer(shape, direction)  # type: ignore[arg-type]  # It comes back to us.
        return dict(components[own]) if own else dict(reference)


def _all_shapes(base: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    for shape in base.__subclasses__():
        yield shape
        yield from _all_shapes(shape)


def add_waiting_endpoints(result: dict[str, Any], **_options: Any) -> dict[str, Any]:
    """A hook of drf-spectacular: what waits is answered before Django, so it does not find that."""
    topics = _parameter("topics", "query", "Topics, separated by commas, instead of the caller's own.")
    since = _parameter("since", "query", "The place to go on from, as it was given.")
    wait = _parameter("wait", "query", "Seconds to wait for something, 0 to 60; default 25.")
    last = _parameter("Last-Event-ID", "header", "The place to go on from, as browsers send it.")
    reply = {
        "type": "object",
        "required": ["events", "since"],
        "properties": {"events": {"type": "array", "items": {"type": "object"}}, "since": {"type": "string"}},
    }
    result["paths"]["/api/stream"] = {
        "get": _operation("stream", "Server-sent events", [topics, last, since], {"text/event-stream": {}})
    }
    result["paths"]["/api/poll"] = {
        "get": _operation("poll", "Long poll", [topics, since, wait], {"application/json": {"schema": reply}})
    }
    result["paths"]["/api/client-messages/receive"] = _receive(
        result,
        "receive_client_messages",
        "Receive messages that nobody fetches by push; they come again unless they are acknowledged in time",
        ReceiveRequest,
        ClientMessages,
    )
    result["paths"]["/api/sessions/{session}/receive"] = _receive(
        result,
        "receive_from_session",
        "Receive what came in for a session that polls; it comes again unless it is acknowledged in time",
        SessionReceive,
        ReceivedMessages,
        {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}},
    )
    add_topic_poll(result)
    return result


def _receive(
    result: dict[str, Any], name: str, summary: str, asks: type, gets: type, *parameters: dict[str, Any]
) -> dict[str, Any]:
    (asked, received), shapes = msgspec.json.schema_components([asks, gets], ref_template=REFERENCE)
    result["components"]["schemas"] |= shapes
    refusals = (400, 401, 403, 404, 405, 413, 415, 429, 503)
    operation = _operation(
        name, summary, list(parameters), {"application/json": {"schema": received}}, refusals=refusals
    )
    return {"post": {**operation, "requestBody": {"content": {"application/json": {"schema": asked}}}}}


def add_topic_poll(result: dict[str, Any]) -> None:
    """It shares its path with the view that publishes."""
    number = {"type": "integer", "minimum": 0, "maximum": 10**18 - 1, "default": 0}
    parameters = [
        {"name": "cache", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "topic", "in": "path", "required": True, "schema": {"type": "string"}},
        _parameter("token", "query", "The credential, instead of the Authorization header."),
        {**_parameter("sequence_number", "query", "The number after the last one; 0 at first."), "schema": number},
        {**_parameter("sequence_page", "query", "The page of the last one; 0 at first."), "schema": number},
    ]
    refusals = (400, 401, 403, 404, 429, 503)
    (items,), shapes = msgspec.json.schema_components([Items], ref_template=REFERENCE)
    result["components"]["schemas"] |= shapes
    result["paths"]["/topics/{cache}/{topic}"]["get"] = {
        **_operation(
            "topic_poll",
            "Long poll of a topic, in Momento's shape: items, and a discontinuity wherever some lack",
            parameters,
            {"application/json": {"schema": items}},
            refusals=refusals,
        ),
        "security": [{"bare": []}],
    }


def _parameter(name: str, place: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": place, "description": description, "schema": {"type": "string"}}


def _operation(
    name: str,
    summary: str,
    parameters: list[dict[str, Any]],
    content: dict[str, Any],
    *,
    refusals: Iterable[int] = (400, 401, 403, 405, 429, 503),
) -> dict[str, Any]:
    refused = {"application/json": {"schema": {"$ref": REFERENCE.format(name="Error")}}}
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["live"],
        "security": [{"bearer": []}, {"session": []}],
        "parameters": parameters,
        "responses": {
            "200": {"description": "", "content": content},
            **{str(status): {"description": "", "content": refused} for status in refusals},
        },
    }
