"""The Back Office's login: dated tokens, no refresh, and a refused password that nobody presents again."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from sqlalchemy.exc import OperationalError

from tasks.accounts import ACCOUNTS
from tasks.fees import FEES
from tests.conftest import Configure, quick
from tests.flow.conftest import make_all_due
from tests.support import until
from worker.errors import B2CopyError, CredentialsRejected, SettingsError
from worker.flow.pusher import Pusher
from worker.instances import b2copy, ledger
from worker.ledger import active_flags, attempts_of, audit_of, find, record
from worker.ledger.refused_passwords import PREFIX, RefusedPasswords
from worker.operation import Operation, State, WaitReason
from worker.sandbox.control_client import SandboxControl
from worker.session import SharedSession
from worker.session.back_office_login import BackOffice, check_password
from worker.settings import Settings, load, worker_settings
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment

EMAIL = "office@broker.example"
NewMember = Callable[[], SharedSession]


@pytest.fixture
def password(active_environment: Environment, configure: Configure) -> Path:
    file = active_environment.folder / "password"
    file.write_text("sandbox\n")
    file.chmod(0o600)
    configure(back_office_email=EMAIL, back_office_password_file=file)
    return file


@pytest.fixture
def member(password: Path) -> NewMember:
    """Return a function that makes another member of the fleet."""
    login = partial(BackOffice, refusals=RefusedPasswords(ledger, "a test"))
    return lambda: SharedSession(worker_settings(), quick(recheck=0.01, refused_cooldown=0.05), login=login)


def sign_ins(sandbox: SandboxControl) -> int:
    return int(sandbox.counters()["calls"].get("signin", 0))


def refusal_of(session: SharedSession) -> str:
    with pytest.raises(CredentialsRejected) as caught:
        session.renew(force=True, wait=2)
    return str(caught.value)


def test_a_token_lives_as_long_as_its_dates_say(member: NewMember, sandbox: SandboxControl) -> None:
    sandbox.switches(sign_in_lifetime=432.0, clock_offset=-7200.0)
    session = member()

    assert session.current().access.startswith("bo_")

    state = session.state()
    assert (state.origin, state.credential) == ("login", EMAIL)
    assert 420 < (state.expires_in or 0) <= 432
    assert member().current() == session.current()
    assert sign_ins(sandbox) == 1


def test_it_signs_in_again_before_the_token_expires(member: NewMember, sandbox: SandboxControl) -> None:
    sandbox.switches(sign_in_lifetime=2.0)
    session = member()
    first = session.current()

    assert until(lambda: session.current() != first)
    assert sign_ins(sandbox) >= 2


def test_a_refused_password_is_presented_once_by_the_whole_fleet_also_after_a_flush(
    member: NewMember, password: Path, sandbox: SandboxControl, broker: Broker
) -> None:
    password.write_text("guessed")

    assert "wrong e-mail or password" in refusal_of(member())
    for _ in range(2):
        broker.flush()
        assert "is not tried again" in refusal_of(member())
    assert sign_ins(sandbox) == 1
    [name] = active_flags(ledger())
    assert name.startswith(PREFIX)
    assert "guessed" not in name

    password.write_text("sandbox")
    assert member().renew(force=True, wait=2).outcome == "login"
    assert sign_ins(sandbox) == 2
    assert active_flags(ledger()) == {}
    assert [entry.action for entry in audit_of(ledger(), name)] == ["raise", "lower"]


@pytest.mark.parametrize(
    ("switch", "message"), [({"two_factor": True}, "second factor"), ({"locked": True}, "is locked")]
)
def test_a_second_factor_and_a_locked_account_are_terminal_and_say_so(
    member: NewMember, sandbox: SandboxControl, switch: dict[str, bool], message: str
) -> None:
    sandbox.switches(**switch)

    assert message in refusal_of(member())
    assert message in refusal_of(member())
    assert sign_ins(sandbox) == 1

    sandbox.switches(two_factor=False, locked=False)
    RefusedPasswords(ledger, "ada").clear("unlocked")
    assert member().renew(force=True, wait=2).outcome == "login"


def test_without_the_ledger_no_password_is_tried(password: Path, sandbox: SandboxControl) -> None:
    def unavailable() -> NoReturn:
        raise OperationalError("SELECT", {}, Exception("the database is down"))

    login = partial(BackOffice, refusals=RefusedPasswords(unavailable, "a test"))
    session = SharedSession(worker_settings(), quick(), login=login)

    with pytest.raises(B2CopyError, match="no password is tried"):
        session.renew(force=True, wait=2)
    assert sign_ins(sandbox) == 0


def test_a_file_that_others_may_read_is_refused(password: Path, member: NewMember, sandbox: SandboxControl) -> None:
    password.chmod(0o644)

    with pytest.raises(SettingsError, match="B2COPY_BACK_OFFICE_PASSWORD_FILE"):
        check_password(worker_settings())
    assert "chmod 600" in refusal_of(member())
    assert sign_ins(sandbox) == 0
    assert active_flags(ledger()) == {}


def test_settings_that_need_the_login_name_what_is_missing(configure: Configure) -> None:
    with pytest.raises(SettingsError, match="B2COPY_BACK_OFFICE_EMAIL is not set"):
        configure(accounts_login="back_office")
    with pytest.raises(SettingsError, match="belong together"):
        configure(back_office_email=EMAIL)
    assert Settings.model_fields["accounts_login"].default == "service_admin"


def test_a_wrong_password_stops_only_the_operations_that_need_it(
    password: Path, configure: Configure, sandbox: SandboxControl
) -> None:
    password.write_text("guessed")
    sandbox.switches(generation1_login="back_office")
    settings = configure(accounts_login="back_office")
    openings = [{"login": str(login), "product_currency_id": 2, "client_id": 5} for login in (7, 8)]
    record(ledger(), [ACCOUNTS.new(fields, settings) for fields in openings], by="a test")
    pusher = Pusher(ledger(), {kind.name: kind for kind in (FEES, ACCOUNTS)}, {"b2copy": b2copy}, load(Settings))

    def operation(key: str) -> Operation:
        found = find(ledger(), key)
        assert found is not None
        return found

    for number in range(3):
        make_all_due(ledger())
        pusher.drain("default")
        fees = FEES.new({"account_login": "7", "request_id": f"W{number}"}, settings)
        record(ledger(), [fees], by="a test")
        pusher.drain("money")
        assert operation(f"fees.process:W{number}").state == State.SUCCEEDED  # at once, not as a probe
    waiting = operation("accounts.create:1/7")
    assert (waiting.wait_reason, waiting.sent) == (WaitReason.NO_SESSION, False)
    assert attempts_of(ledger(), waiting.id)[-1].outcome == "no_back_office"
    assert sign_ins(sandbox) == 1

    password.write_text("sandbox")

    def are_open() -> bool:
        make_all_due(ledger())
        pusher.drain("default")
        return all(operation(f"accounts.create:1/{login}").state == State.SUCCEEDED for login in (7, 8))

    until(are_open)
    pusher.stop()
