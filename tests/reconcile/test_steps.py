"""The steps of a reconciliation, on both databases, against the sandbox's list."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import redis

from tasks import enqueue
from tasks.apply_reconciliation import RunGone, apply, plan, unusually_many
from tasks.reconcile import find_accounts
from tests.ledger.databases import is_waiting_for_a_lock, on_postgresql, on_sqlite
from tests.operations import record_operations
from tests.reconcile.book import number_of, plant
from tests.support import until
from worker.b2copy.routes.account_fields import Account
from worker.b2copy.routes.account_list import AccountSearch
from worker.errors import NotAllowed, RateLimited, Unavailable
from worker.flow.fleet_limits import FleetLimits
from worker.ledger import Identity, Ledger, audit_of, find, identity_of, mark_closed, store_identities
from worker.ledger.identities import counts_as_closed
from worker.ledger.reconciliation import (
    STALE_MS,
    AccountThere,
    Difference,
    Run,
    count_differences,
    current_run,
    differences,
    finish_run,
    is_listed,
    start_run,
    store_page,
)
from worker.ledger.schema import accounts_there, operations, reconciliation
from worker.reconcile.pace import Pace
from worker.reconcile.run import run_to_end
from worker.reconcile.steps import PAGE, ListUnusable, Reconciler
from worker.sandbox.control_client import SandboxControl
from worker.settings import worker_settings
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment

Between = Callable[[Run], None]


class Reconciliation:
    """Runs one in this process. `between` is called after each step, where the list may change."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.requests: list[AccountSearch] = []

    def find(self, search: AccountSearch) -> Any:
        self.requests.append(search)
        return find_accounts(search)

    def run(self, between: Between = lambda run: None) -> dict[str, str]:
        """Return login -> difference."""
        pace = Pace(worker_settings())
        run_to_end(self.ledger, start_run(self.ledger, "test"), self.find, pace, between)
        return self.found()

    def found(self) -> dict[str, str]:
        return {one.login: one.difference for one in self.differences()}

    def last(self) -> Run:
        run = current_run(self.ledger)
        assert run is not None
        return run

    def differences(self) -> list[Difference]:
        return differences(self.ledger, self.last(), limit=10_000)

    def plan(self) -> list[str]:
        """Return what would be done about each difference, in the order of the logins."""
        return [one.action for one in plan(self.last(), self.differences())]


@pytest.fixture
def reconciliation_of(fleet: Environment, ledger: Ledger) -> Reconciliation:
    return Reconciliation(ledger)


def once(condition: Callable[[Run], bool], act: Callable[[], object]) -> Between:
    """Return what acts after the first step for which the condition holds."""
    left = [act]

    def between(run: Run) -> None:
        if left and condition(run):
            left.pop()()

    return between


def test_the_planted_differences_are_found_and_no_others(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    planted = plant(ledger, sandbox, 450, planted=8)

    assert reconciliation_of.run() == planted
    run = current_run(ledger)
    assert run is not None
    confirmed = sum(what != "missing_here" for what in planted.values())
    assert run.requests == len(reconciliation_of.requests) == 450 // (PAGE - 1) + 2 + confirmed
    different = [one for one in reconciliation_of.differences() if one.difference == "different"]
    assert [sorted(one.fields) for one in different[:2]] == [["client_id"], ["account_id"]]


def test_accounts_that_are_opened_and_closed_while_it_reads_make_no_difference(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    planted = plant(ledger, sandbox, 450, planted=8)
    # In front of what is read next: all that follows moves.
    closed = [number_of(place) for place in range(1, 190) if number_of(place) not in planted]

    def change() -> None:
        new = [{"accountNumber": f"8{number}", "clientId": number} for number in range(1, 151)]
        sandbox.add_accounts(new)
        known = [
            Identity("1", f"8{number}", account_id=str(number + 448), client_id=str(number)) for number in range(1, 151)
        ]
        store_identities(ledger, known)
        sandbox.close_accounts(closed)

    found = reconciliation_of.run(once(lambda run: run.position >= 250, change))

    # An account that was read and then closed may be reported by the next run only.
    assert found.items() <= (planted | dict.fromkeys(closed, "missing_there")).items()
    assert planted.items() <= found.items()


def test_a_list_that_moves_back_is_read_without_a_gap(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    plant(ledger, sandbox, 450)
    store_identities(ledger, [])
    closed = [number_of(place) for place in range(120)]
    # Nobody here knows the last accounts: each must be found although the list moves by 120 under the reader.
    sandbox.add_accounts([{"accountNumber": f"9{number}", "clientId": 1} for number in range(120)])

    found = reconciliation_of.run(once(lambda run: run.position >= 300, lambda: sandbox.close_accounts(closed)))

    assert {login for login, what in found.items() if what == "missing_here"} == {f"9{n}" for n in range(120)}


def test_an_account_that_no_page_shows_is_looked_up_before_it_counts_as_missing(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    plant(ledger, sandbox, 120)

    def hide_and_show(run: Run) -> None:
        # The account is in no page, because it is added when the last page has been read.
        if run.phase == "comparing" and identity_of(ledger, "1", "999") is None:
            sandbox.add_accounts([{"accountNumber": "999", "clientId": 5}])
            store_identities(ledger, [Identity("1", "999", account_id="121", client_id="5")])

    assert reconciliation_of.run(hide_and_show) == {}
    assert reconciliation_of.requests[-1].number == "999"


@pytest.mark.parametrize("switches", [{"list_pages": False}, {"list_order": "shifting"}])
@on_sqlite
def test_pages_that_do_not_follow_each_other_are_no_result(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl, switches: dict[str, Any]
) -> None:
    plant(ledger, sandbox, 350)
    sandbox.switches(**switches)

    with pytest.raises(ListUnusable, match="do not follow each other"):
        reconciliation_of.run()
    assert reconciliation_of.found() == {}


@on_sqlite
def test_a_server_that_gives_short_pages_is_read_to_its_end(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    planted = plant(ledger, sandbox, 60, planted=4)
    sandbox.switches(list_limit_max=7)

    assert reconciliation_of.run() == planted


def test_accounts_without_a_number_are_passed_over(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    """They have their places in the list, so pages follow each other."""
    planted = plant(ledger, sandbox, 20, planted=4)
    sandbox.switches(list_limit_max=3)
    for place in range(40):
        sandbox.add_accounts([{"accountNumber": None, "clientId": 1}])
        sandbox.add_accounts([{"accountNumber": f"8{place}", "clientId": 1}])
        store_identities(ledger, [Identity("1", f"8{place}", client_id="1")])

    found = reconciliation_of.run()

    assert found == planted | {f"8{place}": "missing_here" for place in range(40)}
    assert reconciliation_of.last().position == 20 + 80 - sum(what == "missing_there" for what in planted.values())


def test_an_empty_book_agrees(reconciliation_of: Reconciliation) -> None:
    assert reconciliation_of.run() == {}


def test_a_list_that_shows_nothing_is_no_result(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    """A login that has lost its rights may get an empty list: that must not count as 150 accounts to open again."""
    plant(ledger, sandbox, 150)

    def lose_rights() -> None:
        sandbox.close_accounts([number_of(place) for place in range(150)])

    with pytest.raises(ListUnusable, match="lists no account at all, and the identity map has 150"):
        reconciliation_of.run(once(lambda run: run.position > 0, lose_rights))
    with pytest.raises(ListUnusable, match="lists no account at all"):
        reconciliation_of.run()
    assert reconciliation_of.found() == {}


@on_sqlite
def test_more_than_ten_and_one_in_a_hundred_missing_are_unusual(
    fleet: Environment, ledger: Ledger, sandbox: SandboxControl
) -> None:
    plant(ledger, sandbox, 1_000)
    assert [unusually_many(number) for number in (10, 11)] == [False, True]

    store_identities(ledger, [Identity("2", str(number), account_id=str(number)) for number in range(500)])
    assert [unusually_many(number) for number in (15, 16)] == [False, True]


@on_sqlite
def test_a_proxys_404_makes_no_account_missing_there(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    planted = plant(ledger, sandbox, 40, planted=4)
    known = next(login for login, what in planted.items() if what == "different")
    sandbox.switches(error_shape="text")
    sandbox.faults({"what": "status", "route": "accounts.list", "match": known, "status": 404, "next": 2})

    assert reconciliation_of.run() == planted


@pytest.mark.parametrize(
    ("fault", "found", "says"),
    [
        ({"what": "status", "status": 404}, "missing_there", None),
        ({"what": "status", "status": 400, "message": "too short"}, "unclear", "(HTTP 400): too short"),
        ({"what": "html"}, "unclear", "without whole JSON"),
    ],
)
@on_sqlite
def test_an_answer_about_one_login_stops_no_other(
    reconciliation_of: Reconciliation,
    ledger: Ledger,
    sandbox: SandboxControl,
    fault: dict[str, Any],
    found: str,
    says: str | None,
) -> None:
    planted = plant(ledger, sandbox, 40, planted=4)
    odd = next(login for login, what in planted.items() if what == "missing_there")
    sandbox.faults({"route": "accounts.list", "match": odd, **fault})

    assert reconciliation_of.run() == planted | {odd: found}
    [about] = [one for one in reconciliation_of.differences() if one.login == odd]
    assert says is None or says in (about.fields["answer"][1] or "")
    assert "open it again" not in reconciliation_of.plan()


@on_sqlite
def test_trouble_that_passes_is_waited_for(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    planted = plant(ledger, sandbox, 20, planted=1)
    [missing] = planted
    sandbox.faults({"route": "accounts.list", "match": missing, "what": "status", "status": 503, "next": 1})
    reconciler = Reconciler(ledger, find_accounts, lambda: nullcontext(True))
    run = start_run(ledger, "test")
    while run.phase == "reading":
        run = reconciler.step(run) or run

    with pytest.raises(Unavailable):
        reconciler.step(run)
    assert reconciliation_of.found() == {}
    assert reconciliation_of.run() == planted


@on_sqlite
def test_an_account_of_the_same_login_on_another_platform_is_another_account(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    class AllPlatforms(Reconciliation):
        def find(self, search: AccountSearch) -> Any:
            return super().find(search.model_copy(update={"platform": None}))  # B2COPY ignores what is asked for

    sandbox.add_accounts([{"accountNumber": "7", "clientId": 1, "investmentPlatformId": 2}])
    known = [Identity("1", "7", account_id="1", client_id="1"), Identity("2", "7", account_id="1", client_id="1")]
    odd = [Identity(platform, "8", account_id="1") for platform in ("mt5", "0", "01", "-1")]
    store_identities(ledger, [*known, *odd])

    AllPlatforms(ledger).run()

    found = {(one.platform, one.login): one.difference for one in reconciliation_of.differences()}
    assert found == {("1", "7"): "missing_there"} | {(one.platform, "8"): "unclear" for one in odd}
    assert "no number" in str(reconciliation_of.differences()[0].fields["answer"])


class NoPlatforms(Reconciliation):
    """Against a B2COPY whose answers name no platform."""

    def find(self, search: AccountSearch) -> Any:
        return [account.model_copy(update={"platform": None}) for account in super().find(search)]


def test_an_account_without_a_platform_is_of_the_first_one_if_no_other_is_known(
    fleet: Environment, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    sandbox.add_accounts([{"accountNumber": "7", "clientId": 9}])
    record_operations(ledger, "1/8", "1/9", kind="accounts.create")
    record_operations(ledger, "1/8", kind="clients.register")
    run = NoPlatforms(ledger)
    assert run.run() == {"7": "missing_here"}

    apply(run.last(), "test", "why")

    known = identity_of(ledger, "1", "7")
    assert known is not None
    assert (known.account_id, known.client_id) == ("2", "9")


def test_an_account_without_a_platform_teaches_nothing_if_another_one_is_known(
    fleet: Environment, ledger: Ledger, sandbox: SandboxControl
) -> None:
    """Platform 2 has the logins 7, 8 and 9; the identity map knows 7, and 9 as closed. Platform 1 has none of them."""
    keep_the_list_filled(ledger, sandbox)
    sandbox.add_accounts([{"accountNumber": number, "clientId": 9, "investmentPlatformId": 2} for number in "789"])
    store_identities(ledger, [Identity("2", "7", account_id="2", client_id="9"), Identity("2", "9", account_id="4")])
    mark_closed(ledger, "2", "9", "ann", "the client left")
    run = NoPlatforms(ledger)

    assert run.run() == {"8": "unclear", "9": "closed_here"}

    unclear, _ = run.differences()
    assert unclear.platform == ""
    assert "names no platform" in str(unclear.fields["answer"][1])
    assert [search.number for search in run.requests] == [None, None, "9"]
    assert run.plan() == ["a person decides"] * 2
    assert apply(run.last(), "test", "why").learned == 0
    assert [identity_of(ledger, "1", login) for login in ("7", "8", "9")] == [None] * 3


@pytest.mark.parametrize("platform", [2, 10])
@pytest.mark.parametrize("kind", ["accounts.create", "clients.register"])
def test_an_operation_that_has_not_succeeded_names_a_platform_too(
    fleet: Environment, ledger: Ledger, sandbox: SandboxControl, kind: str, platform: int
) -> None:
    keep_the_list_filled(ledger, sandbox)
    sandbox.add_accounts([{"accountNumber": "7", "clientId": 9, "investmentPlatformId": platform}])
    record_operations(ledger, f"{platform}/7", kind=kind)
    run = NoPlatforms(ledger)

    assert run.run() == {"7": "unclear"}

    apply(run.last(), "test", "why")
    assert identity_of(ledger, "1", "7") is None


def test_an_answer_without_a_platform_says_nothing_about_an_identity_that_has_another_account(
    fleet: Environment, ledger: Ledger, sandbox: SandboxControl
) -> None:
    class AllPlatforms(NoPlatforms):
        def find(self, search: AccountSearch) -> Any:
            return super().find(search.model_copy(update={"platform": None}))  # B2COPY ignores what is asked for

    keep_the_list_filled(ledger, sandbox)
    sandbox.add_accounts([{"accountNumber": number, "clientId": 9, "investmentPlatformId": 2} for number in "78"])
    store_identities(ledger, [Identity("2", "7", account_id="2", client_id="9")])
    store_identities(ledger, [Identity("1", "7", learned_from="accounts.create:1/7")])
    store_identities(ledger, [Identity("1", "8", account_id="33")])
    run = AllPlatforms(ledger)

    run.run()

    found = {(one.platform, one.login): one.difference for one in run.differences()}
    assert found == {("1", "7"): "unclear", ("1", "8"): "unclear", ("", "8"): "unclear"}
    apply(run.last(), "test", "why")
    known = identity_of(ledger, "1", "7")
    assert known is not None
    assert (known.account_id, known.client_id) == (None, None)


def test_a_client_without_an_account_is_not_missing_there(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    store_identities(ledger, [Identity("1", "7", client_id="3", learned_from="clients.register:1/7")])
    store_identities(ledger, [Identity("1", "8", client_id="3", learned_from="accounts.create:1/8")])

    assert reconciliation_of.run() == {"8": "missing_there"}


def test_two_accounts_of_one_login_are_left_to_a_person(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    sandbox.add_accounts([{"accountNumber": "7", "clientId": 1}, {"accountNumber": "7", "clientId": 1}])

    assert reconciliation_of.run() == {"7": "different"}
    [one] = reconciliation_of.differences()
    assert one.fields == {"account_id": [None, "1, 2"]}


def test_an_account_that_an_operation_is_opening_is_no_difference(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    sandbox.add_accounts([{"accountNumber": "7", "clientId": 1}, {"accountNumber": "8", "clientId": 1}])
    record_operations(ledger, "1/7", kind="accounts.create", payload={"login": "7", "platform": 1}, lane="default")

    assert reconciliation_of.run() == {"8": "missing_here"}


def test_another_process_continues_where_a_killed_one_was(
    reconciliation_of: Reconciliation, ledger: Ledger, open_again: Callable[[], Ledger], sandbox: SandboxControl
) -> None:
    planted = plant(ledger, sandbox, 350, planted=8)

    class Killed(BaseException):
        pass

    def kill() -> None:
        raise Killed

    with pytest.raises(Killed):
        reconciliation_of.run(once(lambda run: run.position > 200, kill))
    with pytest.raises(Killed):
        Reconciliation(open_again()).run(once(lambda run: run.compared_to[0] != "", kill))
    other = Reconciliation(open_again())

    assert other.run() == planted
    assert [search for search in other.requests if search.number is None] == []


def test_two_processes_at_once_make_one_run(
    reconciliation_of: Reconciliation, ledger: Ledger, open_again: Callable[[], Ledger], sandbox: SandboxControl
) -> None:
    planted = plant(ledger, sandbox, 250, planted=4)
    started = run = start_run(ledger, "one")
    first = Reconciler(ledger, find_accounts, lambda: nullcontext(True))
    made: list[Run | None] = []

    def find_late(search: AccountSearch) -> list[Account]:
        answered = find_accounts(search)
        made.append(first.step(run))  # while the answer is on its way
        return answered

    second = Reconciler(open_again(), find_late, lambda: nullcontext(True))
    while run.phase != "finished":  # both make each step; what one of them writes comes too late
        made.clear()
        late = second.step(run)
        if not made:
            made.append(first.step(run))
        assert made == [late] == [current_run(ledger)]
        assert late is not None
        run = late

    made.clear()
    assert second.step(started) == run  # a process that was suspended all the time sends nothing
    assert made == []
    assert reconciliation_of.found() == planted


@on_postgresql
def test_a_new_run_waits_for_a_step_of_the_old_one(ledger: Ledger) -> None:
    account = AccountThere("1", "7", "1", None)
    run = finish_run(ledger, store_page(ledger, start_run(ledger, "one"), [account], 1, is_end=True))
    starting: list[Run] = []
    starter = threading.Thread(target=lambda: starting.append(start_run(ledger, "two")))

    with ledger.writing() as connection:  # a step: first the run, then what was read
        connection.execute(reconciliation.update().values(version=run.version + 1))
        starter.start()
        until(lambda: is_waiting_for_a_lock(ledger))
        connection.exec_driver_sql("SET LOCAL lock_timeout = '10ms'")
        connection.execute(accounts_there.update().values(client_id="5"))

    starter.join()
    assert [one.started_by for one in starting] == ["two"]
    assert not is_listed(ledger, account)


def test_a_run_without_a_step_for_a_day_begins_again(ledger: Ledger) -> None:
    first = start_run(ledger, "one")
    assert start_run(ledger, "two").started_by == "one"
    with ledger.writing() as connection:
        then = first.started_at - STALE_MS
        connection.execute(reconciliation.update().values(started_at=then, stepped_at=then))

    assert start_run(ledger, "three").started_by == "three"


def test_what_is_missing_here_is_learned_and_what_is_different_is_left(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    planted = plant(ledger, sandbox, 40, planted=4)
    reconciliation_of.run()
    run = current_run(ledger)
    assert run is not None

    applied = apply(run, "ann", "the map lost them")

    assert (applied.learned, applied.enqueued, applied.left) == (1, [], 3)
    [entry] = audit_of(ledger, f"reconciliation {run.name}")
    assert (entry.action, entry.actor, entry.note) == ("apply", "ann", "the map lost them")
    [missing] = [login for login, what in planted.items() if what == "missing_here"]
    learned = identity_of(ledger, "1", missing)
    assert learned is not None
    assert (learned.account_id is not None, learned.client_id, learned.learned_from) == (True, "11", "reconcile")
    assert apply(run, "ann", "again").left == 3
    assert len(reconciliation_of.run()) == 3


def test_what_was_learned_since_the_run_began_is_not_overwritten(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    sandbox.add_accounts([{"accountNumber": "7", "clientId": 1}])
    assert reconciliation_of.run() == {"7": "missing_here"}
    store_identities(ledger, [Identity("1", "7", account_id="newer", client_id="2")])
    run = current_run(ledger)
    assert run is not None

    apply(run, "test", "why")

    known = identity_of(ledger, "1", "7")
    assert known is not None
    assert (known.account_id, known.client_id) == ("newer", "2")


def test_a_closed_account_is_opened_again_with_the_payload_that_opened_it(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    opened(ledger, "7")
    store_identities(ledger, [Identity("1", "8", account_id="2")])
    assert reconciliation_of.run() == {"7": "missing_there", "8": "missing_there"}
    run = current_run(ledger)
    assert run is not None
    assert reconciliation_of.plan() == ["open it again", "a person decides"]

    applied = apply(run, "test", "why")
    again = apply(run, "test", "why")

    assert (applied.enqueued, applied.left) == ([f"accounts.create:1/7#{run.name}"], 1)
    assert (again.enqueued, again.left) == ([], 1)
    recorded = find(ledger, applied.enqueued[0])
    assert recorded is not None
    assert (recorded.lane, recorded.entity, recorded.payload["product_currency_id"]) == ("bulk", "1/7", 2)


def test_an_account_that_a_person_closed_is_not_missing_and_is_reported_once_it_is_there(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    opened(ledger, "7")
    assert reconciliation_of.run() == {"7": "missing_there"}

    assert mark_closed(ledger, "1", "7", "ann", "the client left")

    # The plan from before opens it no more, and no later run reports it.
    before = reconciliation_of.last()
    assert (reconciliation_of.found(), count_differences(ledger, before)) == ({}, {})
    assert apply(before, "test", "why").enqueued == []
    assert reconciliation_of.run() == {}

    sandbox.add_accounts([{"accountNumber": "7", "clientId": 5}])
    assert reconciliation_of.run() == {"7": "closed_here"}
    assert reconciliation_of.differences()[0].fields == {"account_id": ["97", "2"]}
    assert (reconciliation_of.plan(), count_differences(ledger, reconciliation_of.last())) == (
        ["a person decides"],
        {"closed_here": 1},
    )
    assert apply(reconciliation_of.last(), "test", "why").left == 1

    assert mark_closed(ledger, "1", "7", "ann", "the client came back", is_closed=False)
    assert reconciliation_of.found() == {}
    assert reconciliation_of.run() == {"7": "different"}  # the account has another id


def test_an_account_that_a_person_closed_by_mistake_is_reported(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    plant(ledger, sandbox, 3)  # the ids are the same on both sides

    mark_closed(ledger, "1", number_of(1), "ann", "the wrong login")

    assert reconciliation_of.run() == {number_of(1): "closed_here"}


def test_a_person_who_closes_while_it_compares_is_not_overruled(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    opened(ledger, "7")

    def close() -> None:
        mark_closed(ledger, "1", "7", "ann", "the client left")

    assert reconciliation_of.run(once(lambda run: run.phase == "comparing", close)) == {}


@on_postgresql
def test_a_person_who_closes_while_the_plan_is_applied_is_not_overruled(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    for login in ("7", "8", "9"):
        opened(ledger, login)
    reconciliation_of.run()
    run = reconciliation_of.last()

    with ThreadPoolExecutor() as threads:
        with ledger.writing() as connection:
            assert not counts_as_closed(connection, "1", "8")
            applying = threads.submit(apply, run, "test", "why")  # it has read the plan, and records 7
            until(lambda: is_waiting_for_a_lock(ledger))
            assert find(ledger, f"accounts.create:1/7#{run.name}") is not None
            mark_closed(ledger, "1", "9", "ann", "the client left")
        applied = applying.result(20)

    assert applied.enqueued == [f"accounts.create:1/{login}#{run.name}" for login in ("7", "8")]
    assert find(ledger, f"accounts.create:1/9#{run.name}") is None


@on_postgresql
def test_an_account_is_not_closed_while_its_opening_is_being_recorded(
    reconciliation_of: Reconciliation, ledger: Ledger
) -> None:
    opened(ledger, "7")
    payload = {"login": "7", "platform": 1, "product_currency_id": 2, "is_master": True, "client_id": 5, "reopens": "1"}

    with ThreadPoolExecutor() as threads:
        with ledger.writing() as connection:
            assert not counts_as_closed(connection, "1", "7")
            closing = threads.submit(mark_closed, ledger, "1", "7", "ann", "the client left")
            until(lambda: is_waiting_for_a_lock(ledger))
            enqueue.many("accounts.create", [payload], connection=connection)
        with pytest.raises(NotAllowed, match=r"accounts\.create:1/7#1 opens this account and is queued"):
            closing.result(20)

    known = identity_of(ledger, "1", "7")
    assert known is not None
    assert known.closed_at is None


@on_sqlite
def test_a_login_that_was_closed_on_another_platform_is_not_closed(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    opened(ledger, "7")
    reconciliation_of.run()
    run = reconciliation_of.last()
    store_identities(ledger, [Identity("2", "7", account_id="27", client_id="6")])
    mark_closed(ledger, "2", "7", "ann", "the client left")

    assert apply(run, "test", "why").enqueued == [f"accounts.create:1/7#{run.name}"]


@on_sqlite
def test_a_list_without_accounts_is_a_result_if_all_were_closed(
    reconciliation_of: Reconciliation, ledger: Ledger
) -> None:
    opened(ledger, "7")
    mark_closed(ledger, "1", "7", "ann", "the client left")

    assert reconciliation_of.run() == {}


@on_sqlite
def test_an_opening_that_was_cancelled_or_has_failed_is_not_opened_again(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    opened(ledger, "7", state="cancelled")
    opened(ledger, "8", state="failed")
    assert reconciliation_of.run() == {"7": "missing_there", "8": "missing_there"}

    assert reconciliation_of.plan() == ["a person decides"] * 2
    applied = apply(reconciliation_of.last(), "test", "why")
    assert (applied.enqueued, applied.left) == ([], 2)


@pytest.mark.parametrize("state", ["cancelled", "failed", "queued", "succeeded"])
def test_a_second_opening_that_was_cancelled_or_has_failed_is_not_followed_by_a_third(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl, state: str
) -> None:
    keep_the_list_filled(ledger, sandbox)
    opened(ledger, "7")
    opened(ledger, "71")
    reopened(ledger, "7", "1000000000001", "cancelled")
    reopened(ledger, "7", "1000000000002", "succeeded")
    reopened(ledger, "71", "1000000000003", "cancelled")
    run = Run(1000000000004, "a test", "finished", 1, 0, None, ("", "", ""), 0, 1)
    missing = [Difference("1", "7", "missing_there", {})]
    assert [one.action for one in plan(run, missing)] == ["open it again"], "the newest one counts, of this login"

    reopened(ledger, "7", "1000000000003", state)

    assert [one.action for one in plan(run, missing)] == [
        "open it again" if state == "succeeded" else "a person decides"
    ]
    own = Run(1000000000003, "a test", "finished", 1, 0, None, ("", "", ""), 0, 1)
    repeats = ["open it again" if state in {"queued", "succeeded"} else "a person decides"]
    assert [one.action for one in plan(own, missing)] == repeats, "an `apply` that was interrupted is repeated"


def reopened(ledger: Ledger, login: str, run: str, state: str) -> None:
    payload = {"login": login, "platform": 1, "product_currency_id": 2, "client_id": 5, "reopens": run}
    record_operations(ledger, f"1/{login}#{run}", kind="accounts.create", payload=payload, lane="bulk")
    changed: dict[str, Any] = {"state": state, "failure_reason": "rejected" if state == "failed" else None}
    changed |= {} if state == "queued" else {"due_at": None, "ended_at": 1}
    with ledger.writing() as connection:
        key = f"accounts.create:1/{login}#{run}"
        connection.execute(operations.update().where(operations.c.key == key).values(changed))


@on_sqlite
def test_an_opening_by_registration_is_repeated_with_the_clients_id(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    opened(ledger, "7", registration="clients.register:1/7")
    reconciliation_of.run()
    run = reconciliation_of.last()

    apply(run, "test", "why")

    again = find(ledger, f"accounts.create:1/7#{run.name}")
    assert again is not None
    assert (again.payload["client_id"], again.payload["reopens"]) == (5, run.name)
    assert "registration" not in again.payload
    assert again.parent is None


@on_sqlite
def test_what_the_ledger_has_otherwise_is_left_and_stops_no_other(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    opened(ledger, "7")
    opened(ledger, "8")
    reconciliation_of.run()
    run = reconciliation_of.last()
    taken = {"login": "7", "platform": 1, "product_currency_id": 9, "client_id": 5, "reopens": run.name}
    record_operations(ledger, f"1/7#{run.name}", kind="accounts.create", payload=taken, lane="bulk")

    applied = apply(run, "test", "why")

    assert (applied.enqueued, applied.left) == ([f"accounts.create:1/8#{run.name}"], 1)
    assert reconciliation_of.found() == {"7": "missing_there"}


def test_the_plan_of_a_run_that_is_gone_is_not_applied(
    reconciliation_of: Reconciliation, ledger: Ledger, sandbox: SandboxControl
) -> None:
    keep_the_list_filled(ledger, sandbox)
    opened(ledger, "7")
    reconciliation_of.run()
    seen = reconciliation_of.last()
    assert reconciliation_of.run() == {"7": "missing_there"}  # the scheduled job has made another one meanwhile

    with pytest.raises(RunGone):
        apply(seen, "test", "why")

    assert reconciliation_of.found() == {"7": "missing_there"}
    assert find(ledger, f"accounts.create:1/7#{seen.name}") is None
    assert (count_differences(ledger, seen), differences(ledger, seen)) == ({}, [])
    assert apply(reconciliation_of.last(), "test", "why").left == 0


def keep_the_list_filled(ledger: Ledger, sandbox: SandboxControl) -> None:
    """Have an account that both sides know: an empty list is no result."""
    sandbox.add_accounts([{"accountNumber": "600", "clientId": 1}])
    store_identities(ledger, [Identity("1", "600", account_id="1", client_id="1")])


def opened(ledger: Ledger, login: str, state: str = "succeeded", **client: Any) -> None:
    """Have an operation that ended so, and an identity of its account, which B2COPY does not have.

    `client`: how the opening names the client, by its id 5 unless told.
    """
    payload = {
        "login": login,
        "platform": 1,
        "product_currency_id": 2,
        "is_master": True,
        **(client or {"client_id": 5}),
    }
    record_operations(ledger, f"1/{login}", kind="accounts.create", payload=payload, lane="default")
    with ledger.writing() as connection:
        ended = {"state": state, "due_at": None, "failure_reason": "rejected" if state == "failed" else None}
        connection.execute(operations.update().where(operations.c.state == "queued").values(ended))
    store_identities(ledger, [Identity("1", login, account_id=f"9{login}", client_id="5")])


@on_sqlite
def test_one_request_is_out_at_a_time(fleet: Environment, broker: Broker) -> None:
    first, second = Pace(worker_settings()), Pace(worker_settings())

    with first.one_request() as may_send:
        assert may_send
        with second.one_request(until=time.monotonic() + 1) as too:
            assert not too
    with second.one_request(until=time.monotonic() + 20) as may_send:
        assert may_send


@on_sqlite
def test_a_429_to_it_holds_operations_for_a_minute_at_most(fleet: Environment, broker: Broker) -> None:
    pace, operations_limits = Pace(worker_settings()), FleetLimits("b2copy", worker_settings())

    pace.slow_down(RateLimited("accounts.list", 429, None, 3600.0))
    operations_limits.read_hold()

    assert 30 < operations_limits.hold_left_s() <= 60
    assert 3500 < pace._limits.hold_left_s() <= 3600
    with pace.one_request(until=time.monotonic() + 1) as may_send:
        assert not may_send


@on_sqlite
def test_it_takes_a_tenth_of_the_rate_limit(
    fleet: Environment, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B2COPY_RATE_LIMIT", "3600/hour")  # one in a second, of which a tenth is one in ten seconds
    worker_settings.cache_clear()
    first, second = Pace(worker_settings()), Pace(worker_settings())

    with first.one_request() as may_send:
        assert may_send

    left_ms = redis.Redis.from_url(broker.url).pttl("b2copy:gate:b2copy:pace")
    assert 8_000 < left_ms <= 10_000
    for pace in (first, second):  # two processes together are no faster than one
        with pace.one_request(until=time.monotonic() + 1) as may_send:
            assert not may_send
