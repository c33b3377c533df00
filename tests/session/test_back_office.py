"""The Back Office's login: dated tokens, no refresh, and a refused password that nobody presents again."""

import hashlib
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy.exc import OperationalError

from tasks.accounts import ACCOUNTS
from tasks.fees import FEES
from tests.conftest import Configure, quick
from tests.flow.conftest import make_all_due
from tests.http.raw_server import Wire
from tests.support import until
from worker.errors import B2CopyError, CredentialsRejected, SettingsError, Unavailable
from worker.flow.pusher import Pusher
from worker.instances import b2copy, ledger
from worker.ledger import active_flags, attempts_of, audit_of, find, record
from worker.ledger.refused_password_flags import PREFIX, TRYING, UNANSWERED_S, RefusedPasswords
from worker.operation import Operation, State, WaitReason
from worker.sandbox.control_client import SandboxControl
from worker.session import SharedSession
from worker.session.back_office_login import BackOffice, password_of
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
        session.renew(force=True, wait=15)
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


def test_a_host_that_cannot_store_a_token_does_not_sign_in(
    member: NewMember, configure: Configure, sandbox: SandboxControl, tmp_path: Path
) -> None:
    healthy = member()
    configure(storage_key_file=tmp_path / "absent")
    broken = member()

    with pytest.raises(CredentialsRejected, match="absent cannot be read"):
        broken.current()

    assert sign_ins(sandbox) == 0
    assert healthy.current().generation


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
    assert member().renew(force=True, wait=15).outcome == "login"
    assert sign_ins(sandbox) == 2
    assert list(active_flags(ledger())) == [name], "another password's success says nothing about this one"

    password.write_text("guessed")
    broker.flush()
    assert "is not tried again" in refusal_of(member())
    assert sign_ins(sandbox) == 2
    RefusedPasswords(ledger, "ada").forget("unlocked")
    assert active_flags(ledger()) == {}
    assert [entry.action for entry in audit_of(ledger(), name)] == ["raise", "lower"]


def test_a_locked_account_is_asked_once_until_a_person_says_that_it_is_unlocked(
    member: NewMember, sandbox: SandboxControl
) -> None:
    sandbox.switches(locked=True)
    assert "is locked" in refusal_of(member())
    again = refusal_of(member())
    assert "is locked" in again
    assert "session forget --login back_office" in again
    assert sign_ins(sandbox) == 1

    sandbox.switches(locked=False)
    RefusedPasswords(ledger, "ada").forget("unlocked")
    assert member().renew(force=True, wait=15).outcome == "login"


def test_a_second_factor_is_a_setting_of_the_account_and_ends_when_it_is_switched_off(
    member: NewMember, sandbox: SandboxControl, broker: Broker
) -> None:
    sandbox.switches(two_factor=True)
    assert "second factor" in refusal_of(member())
    assert active_flags(ledger()) == {}

    sandbox.switches(two_factor=False)
    broker.flush()  # the time after a refusal is over
    assert member().renew(force=True, wait=15).outcome == "login"


def raw_answer(status: int, body: str, date: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\n{date}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()


GUESSED = 600.0  # seconds: B2COPY_TOKEN_TTL
DATE = "Date: Thu, 26 Nov 2026 10:00:00 GMT\r\n"
NOON, LATER = "2026-11-26T12:00:00+02:00", "2026-11-26 10:01:40"  # 100 s apart; without a zone it is UTC


@pytest.mark.parametrize(
    ("body", "date", "life_s"),
    [
        ({"accessToken": {"token": "t", "createdAt": NOON, "expiresAt": LATER}}, "", 100.0),
        ({"accessToken": {"token": "t", "expiresAt": LATER}}, DATE, 100.0),
        ({"accessToken": {"token": "t", "createdAt": NOON, "expiresAt": LATER}, "2faRequired": False}, DATE, 100.0),
        ({"accessToken": {"token": "t", "expiresAt": LATER}, "2faRequired": "0"}, "", GUESSED),
        ({"accessToken": {"token": "t", "createdAt": NOON}}, DATE, GUESSED),
        ({"accessToken": {"token": "t", "createdAt": LATER, "expiresAt": NOON}}, "", GUESSED),
        ({"accessToken": {"token": "t", "createdAt": NOON, "expiresAt": NOON}}, "", GUESSED),
        ({"accessToken": {"token": "t", "createdAt": NOON, "expiresAt": "2027-11-26"}}, "", GUESSED),
        ({"accessToken": {"token": "t", "createdAt": 7, "expiresAt": "soon"}, "2faRequired": None}, DATE, GUESSED),
    ],
)
def test_dates_that_cannot_be_true_are_not_believed(
    member: NewMember, configure: Configure, wire: Wire, body: dict[str, Any], date: str, life_s: float
) -> None:
    wire.answer = wire.login = lambda connection, request: connection.sendall(raw_answer(200, json.dumps(body), date))
    configure(host=wire.url)
    session = member()

    assert session.renew(force=True, wait=15).outcome == "login"

    state = session.state()
    assert (state.age or 0) + (state.expires_in or 0) == pytest.approx(life_s)
    assert session.current().access == "t"
    [request] = wire.requests
    assert json.loads(request.partition(b"\r\n\r\n")[2]) == {"email": EMAIL, "password": "sandbox"}


def test_a_sign_in_that_is_answered_with_201_gives_a_session(
    member: NewMember, configure: Configure, wire: Wire
) -> None:
    body = json.dumps({"accessToken": {"token": "t"}})
    wire.answer = wire.login = lambda connection, request: connection.sendall(raw_answer(201, body))
    configure(host=wire.url)
    session = member()

    assert session.current().access == "t"
    assert session.current().access == "t"
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ({"accessToken": {"token": "t"}, "2faRequired": True}, CredentialsRejected, "second factor"),
        ({"accessToken": {"token": "t"}, "2faRequired": ["sms"]}, CredentialsRejected, "second factor"),
        ({"accessToken": {"token": "t"}, "2faRequired": {"by": "sms"}}, CredentialsRejected, "second factor"),
        ({"accessToken": "t"}, Unavailable, "no usable access token"),
        ({"accessToken": {"token": "two words"}}, Unavailable, "no usable access token"),
        ({}, Unavailable, "no usable access token"),
        ([], Unavailable, "not a JSON object"),
        ('{"id": 1, "id": 2}', Unavailable, "gives two values to one name"),
    ],
)
def test_an_answer_without_a_token_of_ours_is_no_refusal_of_the_password(
    member: NewMember, configure: Configure, wire: Wire, body: Any, error: type[B2CopyError], message: str
) -> None:
    sent = body if isinstance(body, str) else json.dumps(body)
    wire.answer = wire.login = lambda connection, request: connection.sendall(raw_answer(200, sent))
    configure(host=wire.url)

    with pytest.raises(error, match=message):
        member().renew(force=True, wait=15)
    assert active_flags(ledger()) == {}


@pytest.mark.parametrize(
    ("status", "body", "is_refused"),
    [
        (401, "", True),
        (401, '{"message": "wrong"}', True),
        (403, '{"message": "locked"}', True),
        (422, '{"message": "wrong"}', True),
        (422, '{"errors": {"password": "wrong", "password": "locked soon"}}', True),
        (403, "<html>Request blocked</html>", False),
        (400, "bad request", False),
        (404, '{"message": "no such route"}', False),
    ],
)
def test_only_a_refusal_by_the_api_itself_is_remembered(
    password: Path, member: NewMember, configure: Configure, wire: Wire, status: int, body: str, is_refused: bool
) -> None:
    wire.answer = wire.login = lambda connection, request: connection.sendall(raw_answer(status, body))
    configure(host=wire.url)

    refusal_of(member())

    assert [name.startswith(PREFIX) for name in active_flags(ledger())] == ([True] if is_refused else [])


@pytest.mark.parametrize("how", ["the answer is lost", "the process ends before it can write", "the write fails"])
def test_a_password_whose_refusal_could_not_be_stored_is_not_presented_again(
    password: Path, sandbox: SandboxControl, broker: Broker, how: str
) -> None:
    """The flag is raised before the password is presented."""
    password.write_text("guessed")
    if how == "the answer is lost":
        sandbox.faults({"what": "drop", "route": "signin", "effect": "done", "next": 1})

    class Broken(RefusedPasswords):
        def refuse(self, fingerprint: str, reason: str) -> None:
            if how == "the write fails":
                raise RuntimeError("the disk is full")
            if how == "the process ends before it can write":
                raise SystemExit
            super().refuse(fingerprint, reason)

    session = SharedSession(
        worker_settings(), quick(refused_cooldown=0.05), login=partial(BackOffice, refusals=Broken(ledger, "a test"))
    )
    expected = {"the write fails": CredentialsRejected, "the answer is lost": B2CopyError}
    with pytest.raises(expected.get(how, BaseException)):
        session.renew(force=True, wait=15)
    assert sign_ins(sandbox) == 1
    broker.flush()

    again = SharedSession(
        worker_settings(), quick(), login=partial(BackOffice, refusals=RefusedPasswords(ledger, "a test"))
    )
    with pytest.raises(B2CopyError, match="session forget --login back_office"):
        again.renew(force=True, wait=15)
    assert sign_ins(sandbox) == 1
    [name] = active_flags(ledger())
    with ledger().writing() as connection:
        connection.exec_driver_sql(f"UPDATE b2copy_flags SET since = since - {round(UNANSWERED_S * 1000)}")
    assert "wrong e-mail" in refusal_of(again)
    assert name.startswith(TRYING)
    assert [each.startswith(PREFIX) for each in active_flags(ledger())] == [True]


def test_a_refused_password_is_presented_again_once_a_person_forgets_the_session(
    password: Path, member: NewMember, sandbox: SandboxControl
) -> None:
    password.write_text("guessed")
    session = member()
    for _ in range(2):
        refusal_of(session)
    assert sign_ins(sandbox) == 1

    session.forget()

    refusal_of(session)
    assert sign_ins(sandbox) == 2


def test_the_fingerprint_of_a_password_is_the_same_in_every_version_and_is_derived_once(
    password: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version that computed another one would present a refused password again. To derive it takes 50 ms."""
    derived, scrypt = list[bytes](), hashlib.scrypt

    def note_and_derive(text: bytes, **parameters: Any) -> bytes:
        derived.append(text)
        return scrypt(text, **parameters)

    monkeypatch.setattr(hashlib, "scrypt", note_and_derive)
    settings = configure(host="https://b2copy.example", back_office_email=EMAIL, back_office_password_file=password)
    login = BackOffice(settings, quick(), time.time, refusals=RefusedPasswords(ledger, "a test"))

    assert [login.fingerprint() for _ in range(3)] == ["edecdbb18bfeb146fb6b6f0b"] * 3
    assert derived == [b"sandbox"]
    password.write_text("changed")
    assert login.fingerprint() != "edecdbb18bfeb146fb6b6f0b"


def test_a_sign_in_that_succeeds_leaves_no_flag(member: NewMember) -> None:
    assert member().renew(force=True, wait=15).outcome == "login"
    assert active_flags(ledger()) == {}


def test_without_the_ledger_no_password_is_tried(password: Path, sandbox: SandboxControl) -> None:
    def unavailable() -> NoReturn:
        raise OperationalError("SELECT", {}, Exception("the database is down"))

    login = partial(BackOffice, refusals=RefusedPasswords(unavailable, "a test"))
    session = SharedSession(worker_settings(), quick(), login=login)

    with pytest.raises(B2CopyError, match="no password is tried"):
        session.renew(force=True, wait=15)
    assert sign_ins(sandbox) == 0


def test_a_file_that_others_may_read_is_refused(password: Path, member: NewMember, sandbox: SandboxControl) -> None:
    password.chmod(0o644)

    with pytest.raises(SettingsError, match="B2COPY_BACK_OFFICE_PASSWORD_FILE"):
        member().check()
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
    assert (waiting.wait_reason, waiting.sent) == (WaitReason.NO_OTHER_LOGIN, False)
    assert attempts_of(ledger(), waiting.id)[-1].outcome == "no_other_login"
    assert sign_ins(sandbox) == 1

    password.write_text("sandbox")

    def are_open() -> bool:
        make_all_due(ledger())
        pusher.drain("default")
        return all(operation(f"accounts.create:1/{login}").state == State.SUCCEEDED for login in (7, 8))

    until(are_open)
    pusher.stop()


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo", "\u200b".encode(), b"a\0b", b"\xfc in Latin-1"])
def test_a_password_must_be_one_line_of_text(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    file.chmod(0o600)

    with pytest.raises(SettingsError, match="one line of UTF-8 text"):
        password_of(file)


@pytest.mark.parametrize(
    ("refusal", "remedy"),
    [
        ("a second factor is required", "then: `b2copy-sync session renew --login back_office`"),
        ("wrong password", "put the right password into {file}, and it is tried at once; "),
    ],
)
def test_the_remedy_for_a_refusal_fits_its_reason(password: Path, refusal: str, remedy: str) -> None:
    login = partial(BackOffice, refusals=RefusedPasswords(ledger, "a test"))
    cause, told = SharedSession(worker_settings(), quick(), login=login).explain(refusal)

    assert cause == ""
    assert told.startswith(remedy.format(file=password))
