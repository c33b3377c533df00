"""Our requests, compared with the sandbox's OpenAPI document."""

from typing import Any

import jsonschema

from worker.b2copy.route import Message, Route
from worker.sandbox.openapi import DOCUMENT


def check(route: Route[Any], message: Message) -> None:
    """Raise `jsonschema.ValidationError` or `AssertionError` unless the document allows the message."""
    operation = DOCUMENT["paths"][route.path][route.method.lower()]
    assert operation["operationId"] == route.name
    assert "{" not in message.path
    if "requestBody" in operation:
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.validate(message.body, schema | {"components": DOCUMENT["components"]})
    else:
        assert message.body is None
    for parameter in operation.get("parameters", []):
        if parameter["in"] == "query":
            text = (message.query or {})[parameter["name"]]
            value = int(text) if parameter["schema"]["type"] == "integer" else text
            jsonschema.validate(value, parameter["schema"])
