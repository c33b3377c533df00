"""The service admin's login: a signed assertion for a token pair, a refresh token for the next one."""

import logging
import re
from collections.abc import Callable
from shlex import quote

from worker.errors import CredentialsRejected
from worker.http import Answer
from worker.session import key_files
from worker.session.assertion import assertion
from worker.session.login_interface import BeforeCall
from worker.session.secret import Secret
from worker.session.session_identity import SessionIdentity
from worker.session.timings import Timings
from worker.session.token_endpoints import TokenEndpoints, as_bearer, as_field, read_pair
from worker.session.tokens import Pair
from worker.settings import Settings
from worker.watch import metrics

log = logging.getLogger(__name__)

LOGIN = "/api/admin/auth/v2/admin/adminservice/authexternalcrm"
REFRESH = "/api/admin/auth/v2/admin/adminservice/refreshtoken"


class ServiceAdmin:
    """Logs in with an assertion that names the admin and the egress address, signed with a registered key.

    B2COPY registers keys together with the addresses they are used from, and may bind a token to its address. So
    `device_ip` is part of the session identity: workers that leave through two addresses have two sessions.
    """

    def __init__(self, settings: Settings, timings: Timings, wall: Callable[[], float]) -> None:
        """`wall` gives this machine's clock in Unix seconds."""
        self._settings, self._timings, self._wall = settings, timings, wall
        self._endpoints = TokenEndpoints(settings, timings, wall)
        self.identity = SessionIdentity("service_admin", settings.host, settings.admin_id, settings.device_ip)

    def fingerprint(self) -> str:
        """Identify the signing keys that exist now."""
        return key_files.fingerprint(self._settings)

    def log_in(self, before_call: BeforeCall) -> Pair:
        """Log in with the newest key that B2COPY accepts. The files are read again after each refusal.

        A refusal that came with a `Date` far from our clock is repeated once, dated by B2COPY's clock.
        """
        refused: dict[str, CredentialsRejected] = {}
        corrected = False
        while key := next((key for key in self._signing_keys() if key.fingerprint not in refused), None):
            fleet_ahead = before_call() - self._wall()
            ahead = self._server_ahead(fleet_ahead)
            signed = assertion(self._settings, key, self._wall() + ahead, self._timings.backdate)
            try:
                pair = read_pair(self._post(LOGIN, signed, as_field("external_token")), f"POST {LOGIN}")
                return Pair(pair.access, pair.refresh, pair.life_s, credential=key.key_id)
            except CredentialsRejected as error:
                now_ahead = self._server_ahead(fleet_ahead)
                if not corrected and abs(now_ahead - ahead) > self._timings.skew:
                    corrected = True
                    log.warning(
                        "our clock is %.0f s %s B2COPY's: the login is sent again, dated by B2COPY's clock",
                        abs(now_ahead), "behind" if now_ahead > 0 else "ahead of",
                    )  # fmt: skip
                    continue  # the same key, dated by B2COPY's clock
                log.error("B2COPY refused the login with key %s: %s", key.key_id, error)
                refused[key.fingerprint] = error
        raise next(reversed(refused.values()))

    def refresh(self, refresh_token: Secret[str]) -> Pair:
        """Exchange the refresh token, which counts as used from then on, whatever is answered."""
        return read_pair(self._post(REFRESH, refresh_token, as_bearer), f"POST {REFRESH}")

    def check(self) -> None:
        """Raise `SettingsError` if the keys cannot be used, those that encrypt the tokens included."""
        key_files.check(self._settings)

    def explain(self, refusal: str) -> tuple[str, str]:
        """Return what is wrong with the key that B2COPY's message points to, and what to do about it."""
        key_id, file = self._settings.key_id[0], self._settings.private_key_file[0]
        if "signature" in refusal.lower():
            cause = f"the key in {file} is not the one that B2COPY has registered as {key_id}"
            public_key = f"`openssl pkey -in {quote(str(file))} -pubout`"
            return cause, f"put the registered key back, or have this one registered: {public_key}"
        if re.search(r"\bkid\b|\bkey[ _]?id\b", refusal, re.IGNORECASE):
            return (
                f"B2COPY knows no key called {key_id}",
                "set B2COPY_KEY_ID to the identifier under which B2COPY support registered the public key",
            )
        return "", "compare admin id, key id and public key with what B2COPY support registered"

    def forget_refusals(self) -> None:
        """A refused key is presented again after the cool-down. Nothing else is remembered."""

    def _post(self, path: str, secret: Secret[str], present: Callable[..., None]) -> Answer:
        try:
            return self._endpoints.post(path, secret, present)
        finally:
            if self._endpoints.server_ahead is not None:
                metrics.CLOCK_OFFSET.set(self._endpoints.server_ahead)

    def _server_ahead(self, fleet_ahead: float) -> float:
        """Return by how much B2COPY's clock is ahead of ours, in seconds; 0 if they are about equal.

        A `Date` far from our clock is believed only if Redis' clock confirms it (`fleet_ahead` is Redis' clock minus
        ours): a wrong one would make us sign assertions for another time.
        """
        ahead, tolerance = self._endpoints.server_ahead, self._settings.clock_tolerance
        if ahead is None or abs(ahead) <= self._timings.skew:
            return 0.0
        if min(abs(ahead), abs(ahead - fleet_ahead)) > tolerance:
            log.error(
                "B2COPY's Date is %.0f s %s our clock, more than B2COPY_CLOCK_TOLERANCE (%.0f s), and Redis' clock does"
                " not confirm it. So logins are dated by our clock: correct the clock that is wrong",
                abs(ahead), "ahead of" if ahead > 0 else "behind", tolerance,
            )  # fmt: skip
            return 0.0
        return ahead

    def _signing_keys(self) -> list[key_files.SigningKey]:
        with key_files.key_errors_as_refused_login():
            return key_files.signing_keys(self._settings)
