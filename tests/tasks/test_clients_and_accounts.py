"""Register clients and open their accounts: exactly once, or unresolved where nobody can know."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import SecretStr

from tasks import housekeeping, seamless_url
from tasks.accounts import ACCOUNTS, Opening, describe
from tasks.clients import CLIENTS
from tasks.registry import KINDS
from tests.conftest import Configure
from tests.flow.conftest import make_all_due, make_lease_lapse
from tests.operations import LedgerClock, claim
from tests.support import until
from worker.b2copy.routes.account_create import NewAccount
from worker.b2copy.routes.account_list import AccountSearch
from worker.errors import BadPayload
from worker.flow.pusher import Pusher
from worker.http import event_loop
from worker.instances import b2copy
from worker.instances import ledger as open_this_ledger
from worker.ledger import (
    Identity,
    Ledger,
    active_flags,
    attempts_of,
    find,
    identity_of,
    record,
    refused_secret,
    replay,
    store_identities,
)
from worker.ledger.begun_steps import begin_step
from worker.ledger.operator_actions import resolve, stop_asking
from worker.ledger.refused_secret import May
from worker.operation import FINAL, Operation, State, WaitReason
from worker.report.sentences import remedy
from worker.sandbox.control_client import SandboxControl
from worker.settings import worker_settings
from worker.testbed.local_system import Environment

REGISTRATION, OPENING = "clients.register:1/700100", "accounts.create:1/700100"
SECRET = "sandbox-secret"


class System:
    """This process's worker for both kinds."""

    def __init__(self, configure: Configure, environment: Environment) -> None:
        secret = environment.folder / "secret"
        secret.write_text(f"{SECRET}\n")
        secret.chmod(0o600)
        configure(seamless_secret_file=secret, call_deadline=0.6, late_effect=0.6)
        self.configure, self.secret = configure, secret
        self.ledger: Ledger = open_this_ledger()
        self._pusher: Pusher | None = None

    def request(self, kind: Any, **fields: Any) -> str:
        [recorded] = record(self.ledger, [kind.new({"login": "700100", **fields}, worker_settings())], by="a test")
        return recorded.key

    def drain(self) -> None:
        if self._pusher is None:
            kinds = {kind.name: kind for kind in (CLIENTS, ACCOUNTS)}
            self._pusher = Pusher(self.ledger, kinds, {"b2copy": b2copy}, worker_settings())
        self._pusher.drain("default")

    def stop(self) -> None:
        if self._pusher is not None:
            self._pusher.stop()

    def operation(self, key: str) -> Operation:
        found = find(self.ledger, key)
        assert found is not None
        return found

    def end_of(self, key: str) -> Operation:
        """Drain without waiting for back-offs until the operation has ended."""

        def is_final() -> bool:
            make_all_due(self.ledger)
            self.drain()
            return self.operation(key).state in FINAL

        until(is_final)
        return self.operation(key)


@pytest.fixture
def system(configure: Configure, active_environment: Environment) -> Any:
    system = System(configure, active_environment)
    yield system
    system.stop()


@pytest.fixture
def clock(system: System) -> LedgerClock:
    return LedgerClock(system.ledger)


def times(sandbox: SandboxControl, kind: str) -> int:
    return sum(effect["times"] for effect in sandbox.effects(kind))


def test_a_client_is_registered_and_its_account_opened_after_it(system: System, sandbox: SandboxControl) -> None:
    sandbox.switches(clients="registered")
    opening = system.request(ACCOUNTS, product_currency_id=2, registration=REGISTRATION, is_master=True, name="M")
    system.drain()
    assert system.operation(opening).wait_reason == WaitReason.BEHIND_PARENT
    system.request(CLIENTS, crm_id="C-1")

    registered, opened = system.end_of(REGISTRATION), system.end_of(OPENING)

    assert (registered.state, opened.state) == (State.SUCCEEDED, State.SUCCEEDED)
    result = registered.result or {}
    assert (result["client_id"], result["payment_account"]) == (1, "2")
    assert (opened.result or {})["account_id"] == "1"
    assert (opened.result or {})["answer"]["isMaster"] == 1
    identity = identity_of(system.ledger, "1", "700100")
    assert identity is not None
    assert (identity.crm_id, identity.client_id, identity.payment_account, identity.account_id) == (
        "C-1",
        "1",
        "2",
        "1",
    )
    [attempt] = attempts_of(system.ledger, registered.id)
    assert [step.name for step in attempt.steps] == ["auth_url", "wizard.init", "wizard"]


def test_a_wizard_that_answers_with_the_client_in_it_has_registered_that_client(
    system: System, sandbox: SandboxControl
) -> None:
    sandbox.switches(registration_answer="wizard_with_client")
    system.request(CLIENTS)

    result = system.end_of(REGISTRATION).result or {}

    assert (result["client_id"], result["payment_account"]) == (1, "2")
    assert result["answer"]["id"] != 1


def test_the_id_of_a_wizard_is_no_clients_and_no_account_is_opened_for_it(
    system: System, sandbox: SandboxControl
) -> None:
    sandbox.switches(registration_answer="wizard")
    system.request(CLIENTS)
    system.request(ACCOUNTS, product_currency_id=2, registration=REGISTRATION)

    ended = system.end_of(REGISTRATION)

    assert (ended.failure_reason, ended.unknown_step) == ("unresolved", "wizard")
    assert system.operation(OPENING).wait_reason == WaitReason.BEHIND_PARENT
    assert times(sandbox, "accounts.create") == 0


def test_the_secret_and_the_url_are_stored_nowhere(system: System, sandbox: SandboxControl) -> None:
    system.request(CLIENTS)
    system.end_of(REGISTRATION)

    with system.ledger.reading() as connection:
        rows = [
            str(row)
            for table in ("b2copy_operations", "b2copy_attempts", "b2copy_audit", "b2copy_identities")
            for row in connection.exec_driver_sql(f"SELECT * FROM {table}")
        ]
    assert rows
    assert [row for row in rows if SECRET in row or "copy.broker.example" in row] == []


@pytest.mark.parametrize("effect", ["none", "done"])
@pytest.mark.parametrize(
    ("knowledge", "state", "registrations"),
    [("unknown", State.FAILED, None), ("refused", State.SUCCEEDED, 1), ("returned", State.SUCCEEDED, 1)],
)
def test_a_lost_answer_of_the_wizard_is_treated_as_the_setting_says(
    system: System, sandbox: SandboxControl, knowledge: str, state: State, registrations: int | None, effect: str
) -> None:
    system.configure(duplicate_clients=knowledge)
    sandbox.switches(duplicate_clients="created" if knowledge == "unknown" else knowledge)
    sandbox.faults({"what": "drop", "route": "wizard", "effect": effect, "next": 1})
    system.request(CLIENTS)

    ended = system.end_of(REGISTRATION)

    assert ended.state == state
    expected = registrations if registrations is not None else int(effect == "done")
    assert times(sandbox, "clients.register") == expected
    if knowledge == "unknown":
        assert (ended.failure_reason, ended.unknown_step) == ("unresolved", "wizard")
        assert "whether wizard was done" in remedy(ended, KINDS)
    else:
        is_told = knowledge == "returned" or effect == "none"
        assert (ended.result or {})["client_id"] == (1 if is_told else None)


WIZARD_GONE = {"what": "status", "route": "wizard", "status": 404, "message": "the wizard is not found or has expired"}


def test_a_wizard_that_has_expired_is_started_again(system: System, sandbox: SandboxControl) -> None:
    sandbox.faults({**WIZARD_GONE, "next": 2})
    system.request(CLIENTS)
    system.drain()
    waiting = system.operation(REGISTRATION)
    assert (waiting.wait_reason, waiting.outcome_unknown, waiting.unknown_step) == (WaitReason.NEXT_STEP, False, None)
    assert "has expired" in str(attempts_of(system.ledger, waiting.id)[-1].message)

    assert system.end_of(REGISTRATION).state == State.SUCCEEDED
    assert times(sandbox, "clients.register") == 1
    assert sandbox.counters()["calls"]["wizard.init"] == 3


def test_a_wizard_that_is_never_found_ends_the_registration_as_rejected(
    system: System, sandbox: SandboxControl
) -> None:
    """B2COPY may mean the login. A replay tries as often again."""
    system.configure(max_attempts=3)
    sandbox.faults(WIZARD_GONE)
    system.request(CLIENTS)
    for round_ in (1, 2):
        ended = system.end_of(REGISTRATION)
        assert (ended.failure_reason, ended.outcome_unknown) == ("rejected", False)
        assert sandbox.counters()["calls"]["wizard"] == 3 * round_
        replay(system.ledger, [REGISTRATION], "ada", "again")


def test_a_wizard_that_has_expired_says_nothing_about_an_earlier_registration(
    system: System, sandbox: SandboxControl
) -> None:
    system.configure(duplicate_clients="returned", max_attempts=3)
    sandbox.switches(duplicate_clients="returned")
    sandbox.faults({"what": "drop", "route": "wizard", "effect": "done", "next": 1}, {**WIZARD_GONE, "next": 2})
    system.request(CLIENTS)
    assert system.end_of(REGISTRATION).state == State.SUCCEEDED
    assert times(sandbox, "clients.register") == 1

    sandbox.faults({"what": "drop", "route": "wizard", "effect": "done", "next": 1}, WIZARD_GONE)
    other = system.request(CLIENTS, login="700101")
    ended = system.end_of(other)
    assert (ended.failure_reason, ended.outcome_unknown, ended.unknown_step) == ("unresolved", True, "wizard")


@pytest.mark.parametrize("knowledge", ["unknown", "refused", "returned"])
def test_a_registration_whose_worker_was_lost_before_the_wizard_is_made_again(
    system: System, sandbox: SandboxControl, knowledge: str
) -> None:
    system.configure(duplicate_clients=knowledge)
    system.request(CLIENTS)
    claim(system.ledger, "default", "a worker that dies", 1)
    make_lease_lapse(system.ledger)

    assert system.end_of(REGISTRATION).state == State.SUCCEEDED
    assert times(sandbox, "clients.register") == 1


def test_a_registration_whose_worker_was_lost_in_the_wizard_is_unresolved_and_names_it(
    system: System, sandbox: SandboxControl
) -> None:
    system.request(CLIENTS)
    [held] = claim(system.ledger, "default", "a worker that dies", 1)
    assert begin_step(system.ledger, held, "wizard", None)
    make_lease_lapse(system.ledger)

    ended = system.end_of(REGISTRATION)

    assert (ended.failure_reason, ended.unknown_step) == ("unresolved", "wizard")
    assert times(sandbox, "clients.register") == 0
    replay(system.ledger, [REGISTRATION], "ada", "it is not there", not_done=True)
    assert system.operation(REGISTRATION).unknown_step is None
    assert system.end_of(REGISTRATION).state == State.SUCCEEDED


@pytest.mark.parametrize(("before", "after"), [("unknown", "refused"), ("refused", "unknown")])
def test_a_registration_of_unknown_outcome_is_replayed_only_after_a_look_whatever_the_setting_was_or_is(
    system: System, sandbox: SandboxControl, before: str, after: str
) -> None:
    system.configure(duplicate_clients=before)
    sandbox.faults({"what": "drop", "route": "wizard", "effect": "done"})
    system.request(CLIENTS)
    system.drain()
    if before == "refused":  # it waits and would be sent again
        stop_asking(system.ledger, REGISTRATION, "ada", "B2COPY is down")
    assert system.operation(REGISTRATION).outcome_unknown

    system.configure(duplicate_clients=after)
    assert replay(system.ledger, [REGISTRATION], "ada", "again") == []

    assert replay(system.ledger, [REGISTRATION], "ada", "it is not there", not_done=True) == [REGISTRATION]


def test_a_worker_that_was_suspended_before_the_wizard_does_not_send_it_after_another_has_taken_over(
    system: System, sandbox: SandboxControl
) -> None:
    system.request(CLIENTS)
    [held] = claim(system.ledger, "default", "a suspended worker", 1)
    make_lease_lapse(system.ledger)
    claim(system.ledger, "default", "the next worker", 1)

    assert not begin_step(system.ledger, held, "wizard", None)
    assert system.operation(REGISTRATION).unknown_step is None


def test_a_conflict_after_a_worker_was_lost_before_the_wizard_is_a_client_of_others(
    system: System, sandbox: SandboxControl
) -> None:
    system.configure(duplicate_clients="refused")
    sandbox.switches(duplicate_clients="refused")
    system.request(CLIENTS)
    system.end_of(REGISTRATION)
    with system.ledger.writing() as connection:  # another CRM's client, of whom this ledger knows nothing
        connection.exec_driver_sql("DELETE FROM b2copy_operations")
    system.request(CLIENTS)
    claim(system.ledger, "default", "a worker that dies", 1)
    make_lease_lapse(system.ledger)

    assert system.end_of(REGISTRATION).failure_reason == "rejected"


def test_a_person_resolves_a_registration_and_the_account_is_opened(system: System, sandbox: SandboxControl) -> None:
    sandbox.faults({"what": "drop", "route": "wizard", "effect": "done", "next": 1})
    system.request(CLIENTS)
    system.request(ACCOUNTS, product_currency_id=2, registration=REGISTRATION)
    assert system.end_of(REGISTRATION).failure_reason == "unresolved"
    assert system.operation(OPENING).state == State.WAITING

    resolve(system.ledger, REGISTRATION, "ada", "found it", succeeded=True, result={"client_id": 1})

    assert system.end_of(OPENING).state == State.SUCCEEDED


def test_a_second_registration_of_a_client_of_others_is_refused(system: System, sandbox: SandboxControl) -> None:
    system.configure(duplicate_clients="refused")
    system.request(CLIENTS)
    system.end_of(REGISTRATION)
    with system.ledger.writing() as connection:  # another CRM's client, of whom this ledger knows nothing
        connection.exec_driver_sql("DELETE FROM b2copy_operations")
    system.request(CLIENTS)

    assert system.end_of(REGISTRATION).failure_reason == "rejected"


def test_a_refused_secret_makes_registrations_wait_and_says_what_may_have_blanked_it(
    system: System, sandbox: SandboxControl
) -> None:
    sandbox.switches(secret_key=None)
    system.request(CLIENTS)
    system.drain()
    waiting = system.operation(REGISTRATION)
    assert waiting.wait_reason == WaitReason.NO_SEAMLESS_URL
    [attempt] = attempts_of(system.ledger, waiting.id)
    assert "may have blanked its secret" in str(attempt.message)

    sandbox.switches(secret_key="new")
    system.secret.write_text("new")

    assert system.end_of(REGISTRATION).state == State.SUCCEEDED


@pytest.mark.parametrize("fault", ["others may read it", "it is absent"])
def test_an_unusable_secret_file_stops_only_what_needs_the_secret(
    system: System, sandbox: SandboxControl, fault: str
) -> None:
    """It is not the service admin's login that fails: then the gate would close for all operations."""
    if fault == "it is absent":
        system.secret.rename(system.secret.with_name("elsewhere"))
    else:
        system.secret.chmod(0o644)
    system.request(CLIENTS)
    system.drain()
    opening = system.request(ACCOUNTS, login="700101", product_currency_id=2, client_id=5)
    system.drain()

    assert system.operation(opening).state == State.SUCCEEDED
    waiting = system.operation(REGISTRATION)
    assert waiting.wait_reason == WaitReason.NO_SEAMLESS_URL
    assert "B2COPY_SEAMLESS_SECRET_FILE" in str(attempts_of(system.ledger, waiting.id)[-1].message)


def test_a_refused_secret_is_presented_once_a_minute_and_a_new_one_at_once(
    system: System, sandbox: SandboxControl
) -> None:
    def presented() -> int:
        return int(sandbox.counters()["calls"]["auth_url"])

    sandbox.switches(secret_key="another")
    system.request(CLIENTS)
    system.drain()
    for login in ("700101", "700102"):
        system.request(CLIENTS, login=login)
    for _ in range(3):
        make_all_due(system.ledger)
        system.drain()
    assert presented() == 1
    waiting = system.operation("clients.register:1/700101")
    assert "once a minute" in str(attempts_of(system.ledger, waiting.id)[-1].message)

    with system.ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_flags SET since = since - 60000")
    make_all_due(system.ledger)
    system.drain()
    assert presented() == 2

    system.secret.write_text("another")
    assert system.end_of(REGISTRATION).state == State.SUCCEEDED
    system.secret.write_text(SECRET)
    sandbox.switches(secret_key=SECRET)
    with system.ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE b2copy_flags SET since = since - 60000")
    system.request(CLIENTS, login="700103")
    assert system.end_of("clients.register:1/700103").state == State.SUCCEEDED
    assert active_flags(system.ledger) == {}


def test_an_account_that_b2copy_refuses_does_not_make_the_shared_secret_refused(
    system: System, sandbox: SandboxControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B2COPY answers 403 about this account, and accepts the secret for the others."""
    for module in (refused_secret, seamless_url):
        monkeypatch.setattr(module, "HOLD_S", 0.4)
    system.configure(max_attempts=3)
    sandbox.faults({"what": "status", "route": "auth_url", "status": 403, "match": '"account_id":"13"'})
    refused = system.request(CLIENTS, login="13")
    others = [system.request(CLIENTS, login=f"7001{number}") for number in range(20)]

    def are_done() -> bool:
        system.drain()
        return {system.operation(key).state for key in others} == {State.SUCCEEDED}

    until(are_done)
    rounds = 0
    while system.operation(refused).state not in FINAL:
        rounds += 1
        assert rounds <= 8
        make_all_due(system.ledger)
        system.drain()
        other = system.request(CLIENTS, login=f"7002{rounds}")
        assert system.end_of(other).state == State.SUCCEEDED

    ended = system.operation(refused)
    assert (ended.failure_reason, ended.counted_attempts, ended.outcome_unknown) == ("rejected", 3, False)
    last = attempts_of(system.ledger, ended.id)[-1]
    assert "accepts the shared secret for others" in str(last.message)
    assert active_flags(system.ledger) == {}


def test_an_account_that_was_refused_is_asked_about_after_the_others(
    system: System, sandbox: SandboxControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it might take the only presentation of each minute, and make the next hold begin."""
    sandbox.faults({"what": "status", "route": "auth_url", "status": 403, "match": '"account_id":"13"'})
    refused = system.request(CLIENTS, login="13")
    system.drain()
    other = system.request(CLIENTS)
    system.drain()

    waits = [system.operation(key) for key in (refused, other)]
    assert [one.wait_reason for one in waits] == [WaitReason.NO_SEAMLESS_URL] * 2
    assert (waits[0].due_at or 0) - (waits[1].due_at or 0) > refused_secret.HOLD_S * 1000


def test_beats_renewal_of_the_session_does_not_wake_an_account_that_was_refused(
    system: System, sandbox: SandboxControl, clock: LedgerClock
) -> None:
    """Otherwise it is due with the others, and the older operation of two goes first: it is refused every minute."""
    sandbox.faults({"what": "status", "route": "auth_url", "status": 403, "match": '"account_id":"13"'})
    refused = system.request(CLIENTS, login="13")
    system.drain()
    other = system.request(CLIENTS)
    for _ in range(2):
        housekeeping.refresh()
        system.drain()

    clock.advance(refused_secret.HOLD_S + 1)
    housekeeping.refresh()
    system.drain()

    assert system.operation(other).state == State.SUCCEEDED
    assert [len(attempts_of(system.ledger, system.operation(key).id)) for key in (refused, other)] == [1, 2]


def test_a_refused_account_that_asks_too_early_still_goes_after_the_others(
    system: System, sandbox: SandboxControl
) -> None:
    """A person polls it now, or another account that is refused makes a new hold begin."""
    sandbox.faults({"what": "status", "route": "auth_url", "status": 403, "match": '"account_id":"13"'})
    refused = system.request(CLIENTS, login="13")
    system.drain()
    other = system.request(CLIENTS)
    make_all_due(system.ledger)
    system.drain()

    early, short = [system.operation(key) for key in (refused, other)]
    assert "presented once a minute" in str(attempts_of(system.ledger, early.id)[-1].message)
    assert (early.due_at or 0) - (short.due_at or 0) > refused_secret.HOLD_S * 1000


def test_operations_that_wait_for_the_secret_do_not_come_back_in_step(system: System, sandbox: SandboxControl) -> None:
    """Of operations that are due at one instant the oldest goes first, and it may be the one that is refused."""
    sandbox.switches(secret_key="another")
    system.request(CLIENTS)
    system.drain()
    others = [system.request(CLIENTS, login=f"7002{number}") for number in range(10)]
    system.drain()

    waits_s = [(one.due_at or 0) / 1000 - one.state_since / 1000 for one in map(system.operation, others)]
    assert max(waits_s) - min(waits_s) > 1.0
    assert 5.0 < min(waits_s) <= max(waits_s) < refused_secret.HOLD_S / 2


@pytest.mark.parametrize(
    ("refused_before", "is_about_account"),
    [(True, True), (False, False)],
    ids=["an earlier refusal", "a refusal of another request that is made at the same time"],
)
def test_only_an_earlier_refusal_shows_that_a_refusal_is_about_the_account(
    system: System, refused_before: bool, is_about_account: bool
) -> None:
    secret = SecretStr("shared")
    began = time.monotonic()
    may = refused_secret.may_present(system.ledger, secret, "a test")

    refused_secret.note_refusal(system.ledger, secret, "a test", "1/13", may, began)
    until(lambda: time.monotonic() > began)
    asked_at = time.monotonic() if refused_before else began
    again = refused_secret.note_refusal(system.ledger, secret, "a test", "1/13", May.YES, asked_at)

    assert again is is_about_account


def test_a_refusal_of_long_ago_shows_nothing(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = SecretStr("shared")
    refused_secret.note_refusal(system.ledger, secret, "a test", "1/13", May.YES, time.monotonic())
    monkeypatch.setattr(refused_secret, "REMEMBERED_S", 0.0)

    assert not refused_secret.note_refusal(system.ledger, secret, "a test", "1/13", May.YES, time.monotonic())


@pytest.mark.parametrize("duplicates", ["refused", "returned", "created"])
@pytest.mark.parametrize("effect", ["none", "done"])
def test_an_account_exists_once_whatever_a_second_creation_would_do(
    system: System, sandbox: SandboxControl, duplicates: str, effect: str
) -> None:
    sandbox.switches(duplicate_accounts=duplicates)
    sandbox.faults({"what": "drop", "route": "accounts.create", "effect": effect, "next": 1})
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)

    assert system.end_of(OPENING).state == State.SUCCEEDED
    assert times(sandbox, "accounts.create") == 1


def test_a_replay_looks_before_it_opens_again(system: System, sandbox: SandboxControl) -> None:
    """The first answer may have named another product or client, although the account was opened."""
    sandbox.switches(duplicate_accounts="created")
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)
    system.end_of(OPENING)
    with system.ledger.writing() as connection:
        failed = "state = 'failed', failure_reason = 'other_account', result = NULL"
        connection.exec_driver_sql(f"UPDATE b2copy_operations SET {failed}")
        connection.exec_driver_sql("DELETE FROM b2copy_identities")

    replay(system.ledger, [OPENING], "ada", "the product is right now")

    assert system.end_of(OPENING).state == State.SUCCEEDED
    assert times(sandbox, "accounts.create") == 1


def test_an_account_that_exists_already_is_the_result_unless_it_is_another_clients(
    system: System, sandbox: SandboxControl
) -> None:
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)
    system.end_of(OPENING)
    for client_id, state, reason in ((5, State.SUCCEEDED, None), (6, State.FAILED, "other_client")):
        with system.ledger.writing() as connection:
            connection.exec_driver_sql("DELETE FROM b2copy_operations")
        system.request(ACCOUNTS, product_currency_id=2, client_id=client_id)
        ended = system.end_of(OPENING)
        assert (ended.state, ended.failure_reason) == (state, reason)
    assert times(sandbox, "accounts.create") == 1


@pytest.mark.parametrize(
    ("asked", "reason", "words"),
    [
        ({"is_master": False, "product_currency_id": 2}, None, ""),
        ({"is_master": True, "product_currency_id": 2}, "other_account", "is of type investment"),
        ({"is_master": False, "product_currency_id": 3}, "other_account", "product_currency_id 2, not 3"),
    ],
)
def test_an_account_of_another_type_or_product_is_not_the_one_that_was_asked_for(
    system: System, sandbox: SandboxControl, asked: dict[str, Any], reason: str | None, words: str
) -> None:
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)
    system.end_of(OPENING)
    with system.ledger.writing() as connection:
        connection.exec_driver_sql("DELETE FROM b2copy_operations")
    system.request(ACCOUNTS, client_id=5, **asked)

    ended = system.end_of(OPENING)

    assert ended.failure_reason == reason
    assert words in str(attempts_of(system.ledger, ended.id)[-1].message)
    assert times(sandbox, "accounts.create") == 1


def test_several_accounts_with_one_number_are_no_success(system: System, sandbox: SandboxControl) -> None:
    sandbox.switches(duplicate_accounts="created")
    for _ in range(2):
        event_loop().run(
            b2copy().create_account(NewAccount(client_id=5, platform=1, number="700100", product_currency_id=2))
        )
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)
    claim(system.ledger, "default", "a worker that dies", 1)
    make_lease_lapse(system.ledger)

    ended = system.end_of(OPENING)

    assert ended.failure_reason == "other_account"
    assert "2 accounts" in str(attempts_of(system.ledger, ended.id)[-1].message)


def test_an_account_whose_client_is_not_known_fails_and_is_opened_once_it_is(
    system: System, sandbox: SandboxControl
) -> None:
    system.request(ACCOUNTS, product_currency_id=2)
    ended = system.end_of(OPENING)
    assert (ended.failure_reason, ended.sent) == ("client_unknown", False)

    store_identities(system.ledger, [Identity("1", "700100", client_id="5")])
    replay(system.ledger, [OPENING], "ada", "imported")

    assert system.end_of(OPENING).state == State.SUCCEEDED
    assert sandbox.effects("accounts.create")[0]["body"]["clientId"] == 5


def test_an_opening_whose_worker_died_is_read_back_even_if_nothing_was_sent(
    system: System, sandbox: SandboxControl
) -> None:
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)
    claim(system.ledger, "default", "a worker that dies", 1)
    make_lease_lapse(system.ledger)

    assert system.end_of(OPENING).state == State.SUCCEEDED
    assert sandbox.counters()["calls"]["accounts.list"] >= 2
    assert times(sandbox, "accounts.create") == 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"login": "7"}, "product_currency_id is missing"),
    ({"login": "7", "product_currency_id": 1, "client_id": 5, "registration": REGISTRATION}, "are both given"),
    ({"login": "7", "product_currency_id": 1, "registration": "call:7"}, "is not the key clients.register:"),
    *[
        ({"login": "7", "product_currency_id": 1, "registration": f"clients.register:{rest}"}, "is not the key clients")
        for rest in ("", "1", "/7", "1/")
    ],
    ({"login": "1.0", "product_currency_id": 1}, "spreadsheet"),
    ({"login": "7", "product_currency_id": 1, "client": 5}, "client is not a field"),
]


@pytest.mark.parametrize(("fields", "problem"), REFUSED)
def test_a_payload_that_cannot_be_meant_is_refused(
    fields: dict[str, Any], problem: str, configure: Callable[..., Any]
) -> None:
    with pytest.raises(BadPayload, match=problem):
        ACCOUNTS.new(fields, configure())


def test_an_opening_comes_after_its_registration_or_after_what_was_requested_for_its_login() -> None:
    after = describe(Opening(login="7", platform=3, product_currency_id=1, registration="clients.register:1/9"))
    alone = describe(Opening(login="7", platform=3, product_currency_id=1))

    assert (after.natural_id, after.entity, after.parent) == ("3/7", None, "clients.register:1/9")
    assert (alone.natural_id, alone.entity, alone.parent) == ("3/7", "3/7", None)


@pytest.mark.parametrize(
    ("opening", "known"),
    [
        ({"reopens": "5"}, None),
        ({}, {"account_id": "1"}),
        ({}, {"learned_from": OPENING}),
        ({}, {"learned_from": "reconcile"}),
    ],
)
def test_an_account_that_may_exist_is_looked_up_before_it_is_opened(
    system: System, sandbox: SandboxControl, opening: dict[str, str], known: dict[str, Any] | None
) -> None:
    """Because the identity map has it, perhaps without B2COPY's id, or a reconciliation has found it missing."""
    sandbox.switches(duplicate_accounts="created")
    sandbox.add_accounts([{"accountNumber": "700100", "clientId": 5, "productCurrencyId": 2}])
    if known:
        store_identities(system.ledger, [Identity("1", "700100", client_id="5", **known)])
    key = system.request(ACCOUNTS, product_currency_id=2, client_id=5, **opening)

    opened = system.end_of(key)

    assert (opened.state, (opened.result or {})["account_id"]) == (State.SUCCEEDED, "1")
    assert times(sandbox, "accounts.create") == 0


def test_an_account_that_was_closed_is_opened_once_more(system: System, sandbox: SandboxControl) -> None:
    system.end_of(system.request(ACCOUNTS, product_currency_id=2, client_id=5))
    sandbox.close_accounts(["700100"])

    again = system.end_of(system.request(ACCOUNTS, product_currency_id=2, client_id=5, reopens="7"))

    assert again.key == "accounts.create:1/700100#7"
    identity = identity_of(system.ledger, "1", "700100")
    assert identity is not None
    assert identity.account_id == (again.result or {})["account_id"] == "2"


def test_an_account_of_another_platform_is_not_the_one_that_was_asked_for(
    system: System, sandbox: SandboxControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = NewAccount(client_id=5, platform=2, number="700100", product_currency_id=2)
    event_loop().run(b2copy().create_account(other))
    # B2COPY overlooks the platform in the question.
    monkeypatch.setattr("tasks.accounts.AccountSearch", lambda platform, number: AccountSearch(number=number))
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)
    claim(system.ledger, "default", "a worker that dies", 1)
    make_lease_lapse(system.ledger)

    ended = system.end_of(OPENING)

    assert ended.state == State.SUCCEEDED
    assert (ended.result or {})["answer"]["investmentPlatformId"] == 1
    assert times(sandbox, "accounts.create") == 2


def test_a_creation_that_is_answered_with_an_account_of_another_platform_is_no_success(
    system: System, sandbox: SandboxControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    # B2COPY overlooks the platform in the request.
    monkeypatch.setattr("tasks.accounts.NewAccount", lambda **fields: NewAccount(**(fields | {"platform": 2})))
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)

    ended = system.end_of(OPENING)

    assert (ended.state, ended.failure_reason) == (State.FAILED, "other_account")
    assert "is on platform 2, not 1" in str(attempts_of(system.ledger, ended.id)[-1].message)
    assert identity_of(system.ledger, "1", "700100") is None


LIST_404 = {"what": "status", "route": "accounts.list", "status": 404, "message": "no account matches"}


def drain_often(system: System) -> Operation:
    """Make more attempts than may count, without waiting for the time between them."""
    for _ in range(worker_settings().max_attempts + 3):
        make_all_due(system.ledger)
        system.drain()
    return system.operation(OPENING)


@pytest.mark.parametrize("effect", ["none", "done"])
def test_a_list_that_is_not_found_decides_nothing_about_a_lost_answer(
    system: System, sandbox: SandboxControl, effect: str
) -> None:
    """The 404 may be B2COPY's, if no account matches, or that of a gateway without a route."""
    sandbox.switches(duplicate_accounts="created")
    sandbox.faults({"what": "drop", "route": "accounts.create", "effect": effect, "next": 1}, LIST_404)
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)

    waiting = drain_often(system)

    assert (waiting.state, waiting.wait_reason, waiting.outcome_unknown) == (State.WAITING, "next_step", True)
    assert "no account matches" in str(attempts_of(system.ledger, waiting.id)[-1].message)
    assert times(sandbox, "accounts.create") == (effect == "done")
    sandbox.faults()
    assert system.end_of(OPENING).state == State.SUCCEEDED
    assert times(sandbox, "accounts.create") == 1


def test_a_list_that_is_not_found_decides_nothing_about_a_replay(system: System, sandbox: SandboxControl) -> None:
    sandbox.switches(clients="registered")
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)
    assert system.end_of(OPENING).failure_reason == "rejected"
    sandbox.switches(clients="any")
    sandbox.faults(LIST_404)
    replay(system.ledger, [OPENING], "ada", "the client is registered now")

    assert drain_often(system).state == State.WAITING

    assert times(sandbox, "accounts.create") == 0
    sandbox.faults()
    assert system.end_of(OPENING).state == State.SUCCEEDED


def test_a_list_that_is_not_found_decides_nothing_about_a_conflict(system: System, sandbox: SandboxControl) -> None:
    sandbox.add_accounts([{"accountNumber": "700100", "clientId": 5, "productCurrencyId": 2}])
    sandbox.faults(LIST_404)
    system.request(ACCOUNTS, product_currency_id=2, client_id=5)

    assert drain_often(system).state == State.WAITING

    sandbox.faults()
    assert system.end_of(OPENING).state == State.SUCCEEDED
    assert times(sandbox, "accounts.create") == 0


def test_a_field_without_a_value_is_not_stored(active_environment: Environment) -> None:
    """A worker that does not know a field of a later version takes operations that do not use it."""
    new = CLIENTS.new({"login": "700100", "platform": 1, "crm_id": None}, worker_settings())

    assert new.payload == {"login": "700100", "platform": 1}
