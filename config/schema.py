"""The OpenAPI schema learns msgspec shapes."""

from collections.abc import Iterator
from typing import Any

import msgspec
from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import Direction

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
