"""The local B2COPY itself, without HTTP: state, and one method per documented route.

Every method takes the call as it came and returns what is said, or raises Refused. Nothing here waits.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yarl import URL

from worker.sandbox.answers import Answer, Refused, answer, refusal
from worker.sandbox.assertion import Keys
from worker.sandbox.effects import Effects
from worker.sandbox.fees import Fees
from worker.sandbox.switches import Switches
from worker.sandbox.tokens import Pair, Tokens

AUTH = "/api/admin/auth/v2/admin/adminservice/authexternalcrm"
REFRESH = "/api/admin/auth/v2/admin/adminservice/refreshtoken"
PROCESS = "/api/admin/fees/v2/fee/feeservice/processext"
ADMIN = "/api/admin/"


@dataclass(slots=True)
class Call:
    """One request as it arrived. `authorization` is the raw header; `peer` the caller's address."""

    method: str
    url: URL
    authorization: str
    raw: bytes
    peer: str

    def bearer(self) -> str:
        scheme, _, token = self.authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused(401, "Authorization: Bearer is missing")
        return token

    def json(self) -> Any:
        try:
            return json.loads(self.raw)
        except ValueError:
            raise Refused(400, "the body is not JSON") from None


class B2Copy:
    """Call `forget` to start afresh; keys and switches stay."""

    def __init__(self, switches: Switches, keys: Keys) -> None:
        self.switches = switches
        self.keys = keys
        self._methods: dict[str, Callable[[Call], Answer]] = {
            "authexternalcrm": self.authexternalcrm,
            "refreshtoken": self.refreshtoken,
            "processext": self.processext,
            "call": self.call,
        }
        self.forget()

    def forget(self) -> None:
        self.tokens = Tokens()
        self.effects = Effects()
        self.fees = Fees(self.effects)

    def now(self) -> float:
        """The server's wall clock, s since 1970."""
        return time.time() + self.switches.clock_offset

    @staticmethod
    def route_of(method: str, path: str) -> str:
        """Name the route, or say `unknown`."""
        if method == "POST":
            if path in _GEN_2:
                return _GEN_2[path]
            if path.startswith(ADMIN) and len(path) > len(ADMIN):
                return "call"
        return "unknown"

    def carry_out(self, route: str, call: Call) -> Answer:
        """Do what the call asks. A refusal is an answer too."""
        try:
            method = self._methods.get(route)
            if method is None:
                raise Refused(404, f"{call.method} {call.url.path} is not a route")
            return method(call)
        except Refused as refused:
            return refusal(self.switches, refused)

    def authexternalcrm(self, call: Call) -> Answer:
        body = call.json()
        assertion = body.get("external_token") if isinstance(body, dict) else None
        if not isinstance(assertion, str) or not assertion:
            raise Refused(400, "external_token must be a non-empty string")
        self.keys.check(assertion, call.peer, self.now(), self.switches)
        return self._say(self.tokens.log_in(time.monotonic(), self.now(), self.switches))

    def refreshtoken(self, call: Call) -> Answer:
        return self._say(self.tokens.refresh(call.bearer(), time.monotonic(), self.now(), self.switches))

    def processext(self, call: Call) -> Answer:
        mono = time.monotonic()
        self.tokens.check(call.bearer(), mono)
        if not self.switches.fee_permission:
            raise Refused(403, "the service admin lacks the permission to process fees")
        return answer(self.fees.process(call.json(), mono, self.switches))

    def call(self, call: Call) -> Answer:
        """Any other method of generation 2: carried out each time it is asked, for nothing says it is repeatable."""
        mono = time.monotonic()
        self.tokens.check(call.bearer(), mono)
        body = call.json()
        if not isinstance(body, dict):
            raise Refused(400, "the body must be a JSON object")
        self.effects.record("call", f"{call.url.path} {json.dumps(body, sort_keys=True)}"[:500], mono, body)
        return answer(body)

    def _say(self, pair: Pair) -> Answer:
        if self.switches.pair_names == "camelCase":
            return answer({"accessToken": pair.access, "refreshToken": pair.refresh})
        return answer({"access_token": pair.access, "refresh_token": pair.refresh})


_GEN_2 = {AUTH: "authexternalcrm", REFRESH: "refreshtoken", PROCESS: "processext"}
