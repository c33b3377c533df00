"""The local B2COPY itself, without HTTP: its state, and one method per documented route.

Every method takes the call as it arrived and returns the answer or raises Refused. No method waits.
"""

import hashlib
import json
import time
from collections.abc import Callable

from worker.sandbox import statistics_and_leaderboard
from worker.sandbox.accounts import Accounts
from worker.sandbox.assertion import Keys
from worker.sandbox.back_office_sign_in import PREFIX, SignIn
from worker.sandbox.clients import Clients
from worker.sandbox.effect_log import Effects
from worker.sandbox.fees import Fees
from worker.sandbox.responses import Answer, Refused, answer, enveloped, refusal
from worker.sandbox.routes import GENERATION1, Call
from worker.sandbox.switches import Switches
from worker.sandbox.tokens import Pair, Tokens

_LONGEST_KEY = 300  # characters of a body in the effect log; a longer body is recorded by its digest


class B2Copy:
    """`forget` clears the state; keys and switches stay."""

    def __init__(self, switches: Switches, keys: Keys) -> None:
        self.switches = switches
        self.keys = keys
        self._methods: dict[str, Callable[[Call], Answer]] = {
            "authexternalcrm": self._authexternalcrm,
            "refreshtoken": self._refreshtoken,
            "processext": self._processext,
            "call": self._call,
            "signin": self._sign_in,
            "accounts.list": self._list_accounts,
            "accounts.create": self._create_account,
            "widget.detail": self._widget_detail,
            "widget.statistics": self._widget_statistics,
            "widget.leaderboard": self._widget_leaderboard,
            "auth_url": self._auth_url,
            "wizard.init": self._start_wizard,
            "wizard": self._register_client,
        }
        self.forget()

    def forget(self) -> None:
        """Clear tokens, effects, fee runs, accounts and clients."""
        self.tokens = Tokens()
        self.effects = Effects()
        self.fees = Fees(self.effects)
        self.sign_in = SignIn()
        self.accounts = Accounts(self.effects)
        self.clients = Clients(self.effects)

    def now(self) -> float:
        """The server's wall clock, s since 1970."""
        return time.time() + self.switches.clock_offset

    def carry_out(self, route: str, call: Call) -> Answer:
        """Carry out the call and return the answer, which may be a refusal."""
        try:
            method = self._methods.get(route)
            if method is None:
                raise Refused(404, f"{call.method} {call.url.path} is not a route")
            return method(call)
        except Refused as refused:
            if self.switches.generation1_refusals == "envelope" and call.url.path.startswith(GENERATION1):
                return answer(enveloped(None, refused.status) | {"message": refused.message})
            return refusal(self.switches, refused)

    def _authexternalcrm(self, call: Call) -> Answer:
        body = call.json()
        assertion = body.get("external_token") if isinstance(body, dict) else None
        if not isinstance(assertion, str) or not assertion:
            raise Refused(400, "external_token must be a non-empty string")
        self.keys.check(assertion, call.peer, self.now(), self.switches)
        return self._answer_pair(self.tokens.log_in(time.monotonic(), self.now(), self.switches))

    def _refreshtoken(self, call: Call) -> Answer:
        if call.raw:
            raise Refused(400, "there is no body: the refresh token stands in the header")
        return self._answer_pair(self.tokens.refresh(call.bearer(), time.monotonic(), self.now(), self.switches))

    def _processext(self, call: Call) -> Answer:
        mono = time.monotonic()
        self._check_admin(call.bearer(), mono)
        if not self.switches.fee_permission:
            raise Refused(403, "the service admin lacks the permission to process fees")
        return answer(self.fees.process(call.json(), mono, self.switches))

    def _call(self, call: Call) -> Answer:
        """Any other method of generation 2. Each request takes effect, because no page says that it is repeatable."""
        mono = time.monotonic()
        self._check_admin(call.bearer(), mono)
        body = call.json()
        if not isinstance(body, dict):
            raise Refused(400, "the body must be a JSON object")
        key = json.dumps(body, sort_keys=True)
        if len(key) > _LONGEST_KEY:
            key = hashlib.sha256(key.encode()).hexdigest()
        self.effects.record("call", f"{call.url.path} {key}", mono, body)
        return answer(body)

    def _sign_in(self, call: Call) -> Answer:
        return answer(self.sign_in.sign_in(call.json(), time.monotonic(), self.now(), self.switches))

    def _list_accounts(self, call: Call) -> Answer:
        self._check_generation1(call)
        body = call.json() if call.raw else {}
        found = self.accounts.list(dict(call.url.query), body, self.switches)
        return answer(enveloped(found) if self.switches.list_as == "enveloped" else found)

    def _create_account(self, call: Call) -> Answer:
        self._check_generation1(call)
        clients = self.clients.by_id
        return answer(self.accounts.create(call.json(), clients, time.monotonic(), self.now(), self.switches))

    def _widget_detail(self, call: Call) -> Answer:
        self._check_generation1(call)
        return answer(statistics_and_leaderboard.detail(self.accounts, call.last_segment(), dict(call.url.query)))

    def _widget_statistics(self, call: Call) -> Answer:
        self._check_generation1(call)
        return answer(statistics_and_leaderboard.statistics(self.accounts, call.last_segment(), dict(call.url.query)))

    def _widget_leaderboard(self, call: Call) -> Answer:
        self._check_generation1(call)
        return answer(statistics_and_leaderboard.leaderboard(self.accounts, dict(call.url.query)))

    def _auth_url(self, call: Call) -> Answer:
        return answer(self.clients.auth_url(call.json(), self.switches))

    def _start_wizard(self, call: Call) -> Answer:
        return answer(self.clients.init())

    def _register_client(self, call: Call) -> Answer:
        return answer(self.clients.register(call.last_segment(), call.json(), time.monotonic(), self.switches))

    def _check_admin(self, access: str, mono: float) -> None:
        """Raises Refused: 401 unless the access token is valid, 403 if access is refused to all."""
        self.tokens.check(access, mono)
        self._check_access()

    def _check_generation1(self, call: Call) -> None:
        """As `_check_admin`, for the login that the switch asks for: the documentation does not say which is right."""
        access, mono = call.bearer(), time.monotonic()
        is_back_office = access.startswith(PREFIX)
        if self.switches.generation1_login == "external_crm" and is_back_office:
            raise Refused(401, "a Back Office token is not valid here")
        if self.switches.generation1_login == "back_office" and not is_back_office:
            raise Refused(401, "only a Back Office token is valid here")
        if is_back_office:
            self.sign_in.check(access, mono)
        else:
            self.tokens.check(access, mono)
        self._check_access()

    def _check_access(self) -> None:
        if not self.switches.access:
            raise Refused(403, "access is refused")

    def _answer_pair(self, pair: Pair) -> Answer:
        if self.switches.pair_names == "camelCase":
            return answer({"accessToken": pair.access, "refreshToken": pair.refresh})
        return answer({"access_token": pair.access, "refresh_token": pair.refresh})
