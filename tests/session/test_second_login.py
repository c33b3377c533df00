"""Another way to log in needs one class: both share the machinery, and neither touches the other."""

import time
from collections.abc import Callable
from typing import get_args

import pytest
import redis

from tests.conftest import quick
from tests.session.fleet import token_calls
from tests.support import until
from worker.errors import CredentialsRejected
from worker.instances import SESSIONS
from worker.sandbox.control_client import SandboxControl
from worker.session import Login, SessionIdentity, SharedSession
from worker.session.login_interface import BeforeCall
from worker.session.redis_store import IDENTITIES
from worker.session.secret import Secret
from worker.session.timings import Timings
from worker.session.tokens import Pair
from worker.settings import LOGIN_FIELDS, LoginName, Settings
from worker.testbed.broker import Broker


class Password:
    """A login with a password and without a refresh token."""

    def __init__(self, settings: Settings, timings: Timings, wall: Callable[[], float]) -> None:
        self.identity = SessionIdentity("password", settings.host, "ada@example.com")
        self.password = "right"
        self.life_s = 600.0
        self.logins = 0
        self.fault: BaseException | None = None

    def fingerprint(self) -> str:
        return self.password

    def log_in(self, before_call: BeforeCall) -> Pair:
        before_call()
        self.logins += 1
        if self.fault is not None:
            raise self.fault
        if self.password != "right":
            raise CredentialsRejected("POST /api/v2/signin", 401, "wrong password")
        return Pair(Secret(f"access-{self.logins}"), None, self.life_s, credential="ada@example.com")

    def refresh(self, refresh_token: Secret[str]) -> Pair | None:
        return None

    def check(self) -> None:
        pass

    def explain(self, refusal: str) -> tuple[str, str]:
        return "", "correct the password"

    def forget_refusals(self) -> None:
        pass


@pytest.fixture
def login(settings: Settings) -> Password:
    return Password(settings, quick(), time.time)


@pytest.fixture
def password(settings: Settings, login: Password) -> SharedSession:
    def made(settings: Settings, timings: Timings, wall: Callable[[], float]) -> Login:
        return login

    return SharedSession(settings, quick(recheck=0.01), login=made)


@pytest.fixture
def service_admin(settings: Settings) -> SharedSession:
    return SharedSession(settings, quick(recheck=0.01))


def test_each_login_that_can_be_set_has_a_session() -> None:
    assert get_args(LoginName) == tuple(LOGIN_FIELDS) == tuple(SESSIONS)


def test_each_login_has_a_session_and_keys_of_its_own(
    password: SharedSession, service_admin: SharedSession, broker: Broker, sandbox: SandboxControl
) -> None:
    assert password.current().access == "access-1"
    assert service_admin.current().access != "access-1"

    with redis.Redis.from_url(broker.url, decode_responses=True) as client:
        prefixes = {name.rpartition(":")[0] for name in client.scan_iter("b2copy:{*")}
    identities = [password.state().identity, service_admin.state().identity]
    assert prefixes == {identity.key_prefix for identity in identities}
    assert len(prefixes) == 2
    assert token_calls(sandbox) == 1


def test_who_had_no_session_for_a_day_is_not_listed(service_admin: SharedSession, broker: Broker) -> None:
    service_admin.current()
    late, soon = (SessionIdentity("service_admin", "https://x.example", name, "203.0.113.7") for name in ("1", "2"))
    day_ago = time.time() - 86_400
    with broker.client as client:
        client.zadd(IDENTITIES, {late.as_json(): day_ago - 60, soon.as_json(): day_ago + 60, "no JSON": day_ago + 60})

    assert service_admin.recent_identities() == [service_admin.state().identity, soon]


def test_without_a_refresh_token_it_logs_in_again_ahead_of_expiry(password: SharedSession, login: Password) -> None:
    login.life_s = 0.5
    before = password.current()

    assert until(lambda: password.current() != before)

    state = password.state()
    assert (login.logins, state.origin, state.credential) == (2, "login", "ada@example.com")
    assert password.renew(force=True, wait=15).outcome == "login"


def test_a_refused_login_does_not_touch_the_other(
    password: SharedSession, service_admin: SharedSession, login: Password, sandbox: SandboxControl
) -> None:
    login.password = "wrong"
    with pytest.raises(CredentialsRejected, match="wrong password"):
        password.current()

    assert service_admin.current().generation
    assert service_admin.state().cooldown is None
    with pytest.raises(CredentialsRejected):
        password.current()
    assert login.logins == 1

    login.password = "right"  # other credentials end the cool-down
    assert until(lambda: token_or_none(password))
    sandbox.faults({"what": "status", "status": 401, "route": "token"})
    service_admin.forget()
    with pytest.raises(CredentialsRejected):
        service_admin.current()
    assert password.current().access == "access-2"


def token_or_none(session: SharedSession) -> object:
    try:
        return session.current()
    except CredentialsRejected:
        return None


def test_a_refresh_token_that_the_login_cannot_use_leads_to_a_login(
    settings: Settings, login: Password, password: SharedSession
) -> None:
    given = login.log_in

    def with_refresh_token(before_call: BeforeCall) -> Pair:
        pair = given(before_call)
        return Pair(pair.access, Secret("of no use"), pair.life_s)

    login.log_in = with_refresh_token  # type: ignore[method-assign]
    password.current()

    assert password.renew(force=True, wait=15).outcome == "login"
    assert login.logins == 2


def test_sessions_on_this_redis_are_listed_by_whose_they_are(
    password: SharedSession, service_admin: SharedSession, settings: Settings
) -> None:
    elsewhere = SharedSession(settings.model_copy(update={"device_ip": "127.0.0.2"}), quick())
    password.current()
    service_admin.current()
    with pytest.raises(CredentialsRejected):  # the sandbox sees another address
        elsewhere.current()

    assert service_admin.recent_identities() == [service_admin.state().identity, password.state().identity]
    assert str(service_admin.state().identity) == f"service_admin 42 at {settings.host}, from 127.0.0.1"
    assert elsewhere.state().identity.key_prefix != service_admin.state().identity.key_prefix


@pytest.mark.parametrize(("fault", "pauses"), [(RuntimeError("ours"), True), (SystemExit(), False)])
def test_a_fault_of_ours_pauses_the_logins_and_the_end_of_a_process_does_not(
    password: SharedSession, login: Password, fault: BaseException, pauses: bool
) -> None:
    login.fault = fault

    with pytest.raises(type(fault)):
        password.renew(force=True)

    cooldown = password.state().cooldown
    assert (cooldown is not None) == pauses
    assert cooldown is None or (cooldown.kind, cooldown.reason) == ("internal", "RuntimeError")
