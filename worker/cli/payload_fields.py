"""A payload's fields from texts: the arguments of a command, the cells of a table."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from worker.cli.options import json_or_text

if TYPE_CHECKING:
    from tasks.reads import Read
    from worker.operation_kind import Kind


def fields_of(kind: "Kind[Any] | Read[Any]", texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the values that these texts stand for: JSON, except for the fields that hold a text."""
    names = text_fields(kind)
    return {name: text if name in names else json_or_text(name, text) for name, text in texts.items()}


def text_fields(kind: "Kind[Any] | Read[Any]") -> set[str]:
    """Return the names of the fields that take a text as it stands, `007` and `1e5` included."""
    return _fields_with(kind, "type", "string")


def id_fields(kind: "Kind[Any]") -> set[str]:
    """Return the names of the fields that hold an id as text."""
    from worker.id_fields import ID_FORMAT

    return _fields_with(kind, "format", ID_FORMAT)


def _fields_with(kind: "Kind[Any] | Read[Any]", name: str, value: str) -> set[str]:
    schemas = kind.payload.model_json_schema()["properties"]
    return {
        field
        for field, schema in schemas.items()
        if value in {one.get(name) for one in (schema, *schema.get("anyOf", ()))}
    }
