"""The sandbox's OpenAPI document: the documented routes as we read them, served at /openapi.json."""

from typing import Any

DOCUMENT: dict[str, Any] = {"openapi": "3.1.0", "info": {"title": "B2COPY, as documented", "version": "1"}, "paths": {}}
