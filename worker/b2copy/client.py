"""B2COPY's API: one method a route, one line each."""

from collections.abc import Mapping
from typing import Any, TypeVar

from worker.b2copy.response_mapping import value_of
from worker.b2copy.route import Route
from worker.b2copy.routes import fees, generic
from worker.b2copy.routes.fees import FeeStatus
from worker.http import Http
from worker.operation import OnUnknown

A = TypeVar("A")


class B2Copy:
    """B2COPY, through one authenticated HTTP client. Safe to share between threads."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def send(self, route: Route[A], body: Mapping[str, Any], on_unknown: OnUnknown) -> A:
        """Send one request and return what the route reads in its answer. Raises the errors of `worker.errors`."""
        answer = await self._http.request(route.method, route.path, json=body, login=route.login, on_unknown=on_unknown)
        return route.read(value_of(answer, route.name), body)

    async def process_fees(self, account_login: str, request_id: str) -> FeeStatus:
        """Start the fee run of a withdrawal, or tell how far it is: the same call does both.

        `request_id` is the CRM's own id of the withdrawal. Repeating the call is safe, and is how a pending run is
        polled. A run that failed is HTTP 200 with state ERROR.
        """
        body = {"account_login": account_login, "request_id": request_id}
        return await self.send(fees.PROCESS, body, OnUnknown.START_OR_GET)

    async def call(self, path: str, payload: Mapping[str, Any], on_unknown: OnUnknown = OnUnknown.STOP) -> Any:
        """Call any other Admin v2 method, `/api/admin/<domain>/<version>/<pkg>/<service>/<method>`; return its JSON."""
        return await self.send(generic.route_to(path), payload, on_unknown)
