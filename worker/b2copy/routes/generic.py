"""Any other method of the Admin v2 API, with a path from the caller.

`B2COPY_CALL_PATHS` says which paths a CRM may call. Anybody who can reach the ledger or Redis can ask for a call, and
the service admin may be permitted much. By default every method without a kind of its own is allowed, because nothing
is documented from which a shorter list could be made; an installation that calls three methods should list the three.
"""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from worker.b2copy.response_mapping import contradiction, says_failure
from worker.b2copy.route import Route
from worker.b2copy.routes import fees
from worker.errors import BadPayload, PathNotListed
from worker.storable import storable_json

# ASCII letters and digits only: no dot, percent sign, second slash or query can lead to another path.
_PATH = re.compile(r"/api/admin/(?P<domain>[A-Za-z0-9_-]+)/v[0-9]+(?:/[A-Za-z0-9_-]+){2,4}")
_LIMIT = 255  # characters
_LOGIN = frozenset({("adminservice", "authexternalcrm"), ("adminservice", "refreshtoken")})
_OWN_KIND = frozenset({tuple(fees.PROCESS.path.split("/")[-2:])})


def checked_path(path: str) -> str:
    """Return `path` if it is one for generic calls.

    Raises `BadPayload` otherwise. A login's routes and those with a kind of their own are always refused, in any case,
    version and place: they are reached through that kind only, which knows what may be repeated.
    """
    found = _PATH.fullmatch(path)
    if found is None or len(path) > _LIMIT:
        form = f"/api/admin/<domain>/<version>/<pkg>/<service>/<method>, at most {_LIMIT} characters"
        raise BadPayload(f"path: {path[:_LIMIT]!r} is not {form}")
    if found["domain"].lower() == "auth" or not (_LOGIN | _OWN_KIND).isdisjoint(pairwise(path.lower().split("/"))):
        raise BadPayload(f"path: {path!r} is not for generic calls: use the kind of operation made for it")
    return path


def check_allowed(path: str, allowed: Sequence[str], entity: str | None = None) -> None:
    """Raises `PathNotListed` if none of `allowed`, the patterns of `B2COPY_CALL_PATHS`, fits the path.

    `entity`: the call's. The error holds it, so that later requests of the entity can wait with this one.
    """
    if not any(fnmatchcase(path.lower(), pattern.lower()) for pattern in allowed):
        problem = f"path: {path!r} is not among B2COPY_CALL_PATHS: add it there, on CRM hosts and workers"
        raise PathNotListed(problem, entity)


def route_to(path: str) -> Route[dict[str, Any]]:
    """Return the route of a generic call. Raises `BadPayload` as `checked_path`."""
    return Route(checked_path(path), "", "POST", path, _read)


def _read(body: Any, sent: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer as a result that any database stores. An answer that says it has no body is an empty one.

    Raises `UnknownOutcome` if the body of a 2xx says that the call failed.
    """
    if says_failure(body):
        raise contradiction(body, "the call")
    result = storable_json({} if body is None else body)
    return result if isinstance(result, dict) else {"answer": result}
