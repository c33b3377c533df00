"""B2COPY's API: every route is sent the same way."""

from collections.abc import Mapping
from typing import Any, TypeVar

from worker.b2copy.response_mapping import value_of
from worker.b2copy.route import Route
from worker.http import Http
from worker.operation import OnUnknown

A = TypeVar("A")


class B2Copy:
    """B2COPY, through one authenticated HTTP client."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def send(self, route: Route[A], body: Mapping[str, Any], on_unknown: OnUnknown) -> A:
        """Send one request and return what the route reads in its answer. Raises the errors of `worker.errors`."""
        answer = await self._http.request(route.method, route.path, json=body, login=route.login, on_unknown=on_unknown)
        return route.read(value_of(answer, route.name), body)
