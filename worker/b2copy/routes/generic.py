"""Any other method of the Admin v2 API, with a path from the caller."""

import re
from collections.abc import Mapping
from typing import Any

from worker.b2copy.route import Route
from worker.b2copy.routes import fees
from worker.errors import BadPayload

_PATH = re.compile(r"/api/admin/[A-Za-z0-9_-]+/v[0-9]+(?:/[A-Za-z0-9_-]+){2,4}")
_LOGIN = "/api/admin/auth/"
_OWN_KIND = frozenset({fees.PROCESS.path})  # lower case; routes that have a kind of their own


def checked_path(path: str) -> str:
    """Return `path` if a generic call may go there. Raises `BadPayload` otherwise.

    The login's routes and the routes with a kind of their own are refused: they are reached through that kind alone.
    """
    if not _PATH.fullmatch(path):
        raise BadPayload(f"path: {path!r} is not /api/admin/<domain>/<version>/<pkg>/<service>/<method>")
    if path.lower().startswith(_LOGIN) or path.lower() in _OWN_KIND:
        raise BadPayload(f"path: {path!r} is not for generic calls: use the kind of operation made for it")
    return path


def route_to(path: str) -> Route[dict[str, Any]]:
    """Return the route of a generic call. Raises `BadPayload` as `checked_path`."""
    return Route(checked_path(path), "", "POST", path, _read)


def _read(body: Any, sent: Mapping[str, Any]) -> dict[str, Any]:
    if body is None:
        return {}
    return body if isinstance(body, dict) else {"answer": body}
