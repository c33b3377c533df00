"""The local B2COPY itself, without HTTP: state, and one method per documented route.

Every method takes the call as it came and returns what is said, or raises Refused. Nothing here waits.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yarl import URL

from worker.sandbox import generation1_api
from worker.sandbox.assertion import Keys
from worker.sandbox.effect_log import Effects
from worker.sandbox.fees import Fees
from worker.sandbox.generation1_api import BackOffice
from worker.sandbox.responses import Answer, Refused, answer, refusal
from worker.sandbox.switches import Switches
from worker.sandbox.tokens import Pair, Tokens

AUTH = "/api/admin/auth/v2/admin/adminservice/authexternalcrm"
REFRESH = "/api/admin/auth/v2/admin/adminservice/refreshtoken"
PROCESS = "/api/admin/fees/v2/fee/feeservice/processext"
ADMIN = "/api/admin/"
_LONGEST_KEY = 300  # characters of a body in the effect log; a longer one is known by its digest


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
        except (ValueError, RecursionError):
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
            "signin": self.signin,
            "accounts.list": self.list_accounts,
            "accounts.create": self.create_account,
            "auth_url": lambda call: answer(self.back_office.auth_url(call.json(), self.switches)),
            "wizard.init": lambda call: answer(self.back_office.init()),
            "wizard": self.register_client,
        }
        self.forget()

    def forget(self) -> None:
        self.tokens = Tokens()
        self.effects = Effects()
        self.fees = Fees(self.effects)
        self.back_office = BackOffice(self.effects)

    def now(self) -> float:
        """The server's wall clock, s since 1970."""
        return time.time() + self.switches.clock_offset

    @staticmethod
    def route_of(method: str, path: str) -> str:
        """Name the route, or say `unknown`."""
        if route := _ROUTES.get((method, path)):
            return route
        if method == "POST" and path.startswith(ADMIN) and len(path) > len(ADMIN):
            return "call"
        if method == "POST" and path.startswith(generation1_api.WIZARDS):
            return "wizard"
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
        said = json.dumps(body, sort_keys=True)
        if len(said) > _LONGEST_KEY:
            said = hashlib.sha256(said.encode()).hexdigest()
        self.effects.record("call", f"{call.url.path} {said}", mono, body)
        return answer(body)

    def signin(self, call: Call) -> Answer:
        return answer(self.back_office.sign_in(call.json(), time.monotonic(), self.now(), self.switches))

    def list_accounts(self, call: Call) -> Answer:
        self._check_office(call)
        body = call.json() if call.raw else {}
        return answer(self.back_office.list_accounts(dict(call.url.query), body, self.switches))

    def create_account(self, call: Call) -> Answer:
        self._check_office(call)
        return answer(self.back_office.create_account(call.json(), self.now(), time.monotonic(), self.switches))

    def register_client(self, call: Call) -> Answer:
        workflow = call.url.path.removeprefix(generation1_api.WIZARDS)
        return answer(self.back_office.register_client(workflow, call.json(), time.monotonic(), self.switches))

    def _check_office(self, call: Call) -> None:
        """Whether a token of generation 2 opens the routes of generation 1 is not documented."""
        access, mono = call.bearer(), time.monotonic()
        signed_in_there = access.startswith("bo_")
        if self.switches.back_office_login == "external_crm" and signed_in_there:
            raise Refused(401, "a Back Office token does not open this")
        if self.switches.back_office_login == "back_office" and not signed_in_there:
            raise Refused(401, "only a Back Office token opens this")
        if signed_in_there:
            self.back_office.check(access, mono)
        else:
            self.tokens.check(access, mono)

    def _say(self, pair: Pair) -> Answer:
        if self.switches.pair_names == "camelCase":
            return answer({"accessToken": pair.access, "refreshToken": pair.refresh})
        return answer({"access_token": pair.access, "refresh_token": pair.refresh})


_ROUTES = {
    ("POST", AUTH): "authexternalcrm",
    ("POST", REFRESH): "refreshtoken",
    ("POST", PROCESS): "processext",
    ("POST", generation1_api.SIGN_IN): "signin",
    ("GET", generation1_api.ACCOUNTS): "accounts.list",
    ("POST", generation1_api.CREATE): "accounts.create",
    ("POST", generation1_api.AUTH_URL): "auth_url",
    ("GET", generation1_api.INIT): "wizard.init",
}
