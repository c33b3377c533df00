"""The calls we make, one method each, with the page that documents them.

What to do when the outcome of a call is unknown is part of the call, and stands here beside each method:

* start-or-get: the same call again tells (`process_fees`).
* caller's word: repeated if the caller said that it may be, else never (`call`).
"""

import re
from collections.abc import Mapping
from typing import Any

from worker.b2copy.answers import value_of
from worker.b2copy.fees import FeeStatus, fee_status
from worker.errors import BadPayload
from worker.session import Http

PROCESS_FEES = "/api/admin/fees/v2/fee/feeservice/processext"
GENERIC_PATH = re.compile(r"/api/admin/[\w-]+/v\d+(?:/[\w-]+){2,4}")


class B2Copy:
    """B2COPY, as seen through one authenticated connection. Safe to share between threads."""

    def __init__(self, http: Http) -> None:
        self._http = http

    def process_fees(self, account_login: str, request_id: str) -> FeeStatus:
        """Start the fee run of a withdrawal, or tell how far it is: the same call does both.

        `request_id` is the CRM's own id of the withdrawal. Start-or-get: safe to repeat, and repeating it is how a
        pending run is polled. A run that failed arrives as HTTP 200 with state ERROR.
        Documentation: initiate-fee-processing-between-master-and-investment-accounts.
        """
        payload = {"account_login": account_login, "request_id": request_id}
        answer = self._http.post(PROCESS_FEES, payload, repeatable=True)
        return fee_status(value_of(answer, "processext", repeatable=True), account_login, request_id)

    def call(self, path: str, payload: Mapping[str, Any], *, repeatable: bool = False) -> Any:
        """Call any other Admin v2 method and return its JSON.

        `path` is `/api/admin/<domain>/<version>/<pkg>/<service>/<method>`. When the outcome is unknown the call is made
        again only if the caller said that it is `repeatable`.
        """
        answer = self._http.post(checked_path(path), payload, repeatable=repeatable)
        return value_of(answer, path, repeatable=repeatable)


def checked_path(path: str) -> str:
    """Return `path` if it is one of the Admin v2 API other than the login's own; raise `BadPayload` otherwise."""
    if not GENERIC_PATH.fullmatch(path) or path.startswith("/api/admin/auth/"):
        raise BadPayload(f"path: {path!r} is not /api/admin/<domain>/<version>/<pkg>/<service>/<method>")
    return path
