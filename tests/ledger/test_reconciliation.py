"""How far a reconciliation is, and what of both sides may differ."""

from typing import Any

import pytest
from sqlalchemy import text

from tests.operations import record_operation
from worker.ledger import Ledger, audit_of, cancel
from worker.ledger.identities import Identity, identity_of, mark_closed, store_identities
from worker.ledger.reconciliation import (
    AccountThere,
    Candidate,
    Difference,
    Run,
    audit_applied,
    candidates,
    count_differences,
    current_run,
    decide,
    differences,
    expected_accounts,
    finish_run,
    forget_differences,
    identities_now,
    is_due,
    is_listed,
    ms_since_last_step,
    start_run,
    store_page,
)

OPENED = "accounts.create:any"
HOUR_MS = 3_600_000


def account(login: str, account_id: str = "a", client_id: str | None = "c", platform: str = "1") -> AccountThere:
    return AccountThere(platform, login, account_id, client_id)


def known(login: str, account_id: str | None = "a", client_id: str | None = "c", **fields: Any) -> Identity:
    return Identity(fields.pop("platform", "1"), login, account_id=account_id, client_id=client_id, **fields)


def compare(ledger: Ledger, here: list[Identity], there: list[AccountThere]) -> Run:
    """Return a run that has read the accounts of both sides."""
    store_identities(ledger, here)
    return store_page(ledger, start_run(ledger, "ada"), there, len(there), is_end=True)


def logins(found: list[Candidate]) -> list[str]:
    return [f"{one.side} {one.login}" for one in found]


def test_what_both_sides_have_may_differ_in_an_id_or_be_there_twice(ledger: Ledger) -> None:
    here = [known(login) for login in ("account", "client", "no account", "no client", "same", "twice")]
    there = [
        account("account", account_id="b"),
        account("client", client_id="d"),
        account("no account", account_id=""),
        account("no client", client_id=None),
        account("same"),
        account("twice", account_id=""),
        account("twice"),
    ]

    found = candidates(ledger, compare(ledger, here, there))

    assert logins(found) == ["here account", "here client", "here twice"]
    assert found[0].identity == identity_of(ledger, "1", "account")
    assert [one.accounts for one in found[:2]] == [(there[0],), (there[1],)]
    assert set(found[2].accounts) == {there[5], there[6]}


def test_one_side_may_have_an_account_that_the_other_does_not_have(ledger: Ledger) -> None:
    here = [
        known("an account"),
        known("only a client", account_id=None),
        known("listed", account_id=None, learned_from="reconcile"),
        known("opened", account_id=None, learned_from=OPENED),
        known("closed"),
        known("closed, and there"),
        known("elsewhere", "x", destination="other"),
        known("other platform", platform="2"),
    ]
    store_identities(ledger, here)
    for login in ("closed", "closed, and there"):
        assert mark_closed(ledger, "1", login, "ada", "the client has left")
    there = [account("closed, and there"), account("elsewhere"), account("new"), account("other platform")]

    run = compare(ledger, [], there)

    assert expected_accounts(ledger) == 4
    found = candidates(ledger, run)
    assert logins(found) == [
        "here an account", "here closed, and there", "here listed", "here opened", "here other platform"
    ]  # fmt: skip
    assert [one.accounts for one in found] == [(), (there[0],), (), (), ()]
    run = decide(ledger, run, found[:1], [], 0)
    assert logins(candidates(ledger, run)) == logins(found[1:])
    run = decide(ledger, run, found[1:], [], 0)
    beyond = candidates(ledger, run)
    assert beyond == [Candidate("there", "1", one.login, None, (one,)) for one in there[1:]]
    run = decide(ledger, run, beyond[:2], [], 0)
    assert candidates(ledger, run) == beyond[2:]
    assert candidates(ledger, decide(ledger, run, beyond[2:], [], 0)) == []


def test_the_order_is_that_of_platform_and_login_together(ledger: Ledger) -> None:
    places = [("1", "b"), ("2", "a"), ("2", "c")]
    run = compare(ledger, [known(login, platform=platform) for platform, login in places], [])

    for number in range(3):
        found = candidates(ledger, run)
        assert [(one.platform, one.login) for one in found] == places[number:]
        run = decide(ledger, run, found[:1], [], 0)


def test_what_an_operation_is_opening_is_left_out(ledger: Ledger) -> None:
    names = ["opening", "in line", "cancelled", "quiet"]
    run = compare(ledger, [known(name) for name in names] + [known("quiet", "x", destination="other")], [])
    record_operation(ledger, "1/opening", kind="accounts.create")
    record_operation(ledger, "9", kind="clients.register", entity="1/in line")
    record_operation(ledger, "1/cancelled", kind="accounts.create", entity="1/cancelled")
    cancel(ledger, "accounts.create:1/cancelled", "ada", "no")
    unknown = Candidate("there", "1", "unknown", None, ())

    found = identities_now(ledger, [*candidates(ledger, run), unknown])

    assert found.keys() == {("1", "cancelled"), ("1", "quiet"), ("1", "unknown")}
    assert found["1", "unknown"] is None
    assert (found["1", "quiet"] or pytest.fail("it is known")).account_id == "a"


def test_a_run_says_how_far_it_is(ledger: Ledger) -> None:
    assert current_run(ledger) is None
    started = start_run(ledger, "ada")
    assert started == Run(started.started_at, "ada", "reading", 0, 0, None, ("", "", ""), 0, None)
    assert started.name == str(started.started_at)

    empty = store_page(ledger, started, [], 0, is_end=False)
    one = store_page(ledger, empty, [account("7"), account("8", client_id="old")], 2, is_end=False)
    end = store_page(ledger, one, [], 2, is_end=True)

    assert (empty.phase, empty.version, empty.position, empty.anchor, empty.requests) == ("reading", 1, 0, None, 1)
    assert (one.phase, one.position, one.anchor, one.requests) == ("reading", 2, account("8", client_id="old"), 2)
    assert (end.phase, end.version, end.position, end.anchor, end.requests) == ("comparing", 3, 2, one.anchor, 3)
    assert store_page(ledger, started, [account("late")], 9, is_end=True) == end, "another process was faster"
    assert not is_listed(ledger, account("late"))
    for other in (account("7", platform="2"), account("9"), account("7", account_id="b")):
        assert not is_listed(ledger, other)
    assert is_listed(ledger, account("7", client_id="whoever"))

    decided = decide(ledger, end, candidates(ledger, end)[:1], [], requests=5)
    finished = finish_run(ledger, decided)

    assert (decided.compared_to, decided.requests, decided.phase) == (("there", "1", "7"), 8, "comparing")
    assert finished.phase == "finished"
    assert finished.finished_at is not None
    assert 0 <= finished.finished_at - finished.started_at < 60_000
    assert current_run(ledger) == finished
    audit_applied(ledger, finished, "ada", "looked")
    assert [entry.action for entry in audit_of(ledger, f"reconciliation {finished.name}")] == ["apply"]


@pytest.mark.parametrize(
    ("age_ms", "is_finished", "every_ms", "starts"),
    [
        (23 * HOUR_MS, False, None, False),
        (23 * HOUR_MS, False, 60_000, False),
        (24 * HOUR_MS + 60_000, False, None, True),
        (24 * HOUR_MS + 60_000, False, 90 * HOUR_MS, True),
        (60_000, True, None, True),
        (60_000, True, 120_000, False),
        (180_000, True, 120_000, True),
        (-60_000, True, 120_000, True),
    ],
)
def test_a_run_is_started_if_none_is_under_way_and_the_last_one_is_old_enough(
    ledger: Ledger, age_ms: int, is_finished: bool, every_ms: int | None, starts: bool
) -> None:
    run = compare(ledger, [], [account("7")])
    if is_finished:
        run = finish_run(ledger, run)
    with ledger.writing() as connection:
        aged = f"started_at = started_at - {age_ms}, stepped_at = stepped_at - {age_ms}"
        connection.execute(text(f"UPDATE b2copy_reconciliation SET {aged}"))

    if every_ms is not None:
        assert is_due(ledger, every_ms) == (starts or not is_finished)
    again = start_run(ledger, "bob", every_ms)

    assert again.started_by == ("bob" if starts else "ada")
    assert is_listed(ledger, account("7")) != starts, "a new run forgets what the last one has read"


def test_a_run_that_makes_steps_continues_although_it_began_days_ago(ledger: Ledger) -> None:
    run = compare(ledger, [], [account("7")])
    with ledger.writing() as connection:
        aged = f"started_at = started_at - {72 * HOUR_MS}, stepped_at = stepped_at - {23 * HOUR_MS}"
        connection.execute(text(f"UPDATE b2copy_reconciliation SET {aged}"))

    continued = start_run(ledger, "bob", HOUR_MS)
    assert (continued.started_by, continued.phase) == ("ada", "comparing")

    decide(ledger, continued, candidates(ledger, continued), [], 1)
    with ledger.writing() as connection:  # the step was the last sign of life for 23 hours more
        connection.execute(text(f"UPDATE b2copy_reconciliation SET stepped_at = stepped_at - {23 * HOUR_MS}"))
    assert start_run(ledger, "bob", HOUR_MS).started_by == "ada"
    assert run.started_at > continued.started_at


@pytest.fixture
def differing(ledger: Ledger) -> tuple[Run, list[Difference]]:
    """A run that has found a difference of each sort, and others of another run."""
    here = [known("closed here", platform="2"), known("missing there")]
    run = compare(ledger, here, [])
    mark_closed(ledger, "2", "closed here", "ada", "gone")
    found = [
        Difference("1", "different", "different", {"client_id": ["1", "2"]}),
        Difference("1", "missing there", "missing_there", {}),
        Difference("1", "unclear", "unclear", {"answer": [None, "503"]}),
        Difference("2", "closed here", "closed_here", {}),
    ]
    run = decide(ledger, run, [Candidate("here", "2", "z", None, ())], found, 0)
    with ledger.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO b2copy_reconciliation_differences (platform, login, run, difference, fields)"
                " VALUES ('0', 'of another run', 1, 'different', '{}')"
            )
        )
    return run, found


def test_differences_are_read_page_by_page_and_forgotten_once_settled(
    ledger: Ledger, differing: tuple[Run, list[Difference]]
) -> None:
    run, found = differing

    assert differences(ledger, run) == found
    assert count_differences(ledger, run) == {"different": 1, "missing_there": 1, "unclear": 1, "closed_here": 1}
    assert differences(ledger, run, limit=2) == found[:2]
    assert differences(ledger, run, ("1", "missing there")) == found[2:]

    forget_differences(ledger, run, [found[0], Difference("2", "unclear", "unclear", {})])

    assert differences(ledger, run) == found[1:]
    with ledger.reading() as connection:
        left = connection.execute(text("SELECT count(*) FROM b2copy_reconciliation_differences WHERE run = 1"))
        assert left.scalar_one() == 1


@pytest.mark.parametrize("changed", ["missing there", "closed here"])
def test_a_difference_falls_if_a_person_closes_the_account_or_takes_that_back(
    ledger: Ledger, differing: tuple[Run, list[Difference]], changed: str
) -> None:
    run, found = differing
    platform = "1" if changed == "missing there" else "2"
    other = "2" if changed == "missing there" else "1"
    store_identities(ledger, [known(changed, platform=other), known(changed, platform=platform, destination="other")])
    mark_closed(ledger, platform, changed, "ada", "why", is_closed=changed == "missing there")

    left = [one.login for one in differences(ledger, run)]

    assert left == [one.login for one in found if one.login != changed]
    assert sum(count_differences(ledger, run).values()) == 3


def test_a_difference_that_is_found_again_is_replaced(ledger: Ledger, differing: tuple[Run, list[Difference]]) -> None:
    run, found = differing
    again = found[0]._replace(difference="unclear", fields={"answer": [None, "x"]})

    run = decide(ledger, run, [Candidate("there", "1", "a", None, ())], [again], 0)

    assert differences(ledger, run) == [again, *found[1:]]


def test_how_long_ago_the_last_step_was_is_known_also_if_there_was_none(ledger: Ledger) -> None:
    assert ms_since_last_step(ledger) is None

    def aged(table: str, column: str) -> int:
        with ledger.writing() as connection:
            connection.execute(text(f"UPDATE {table} SET {column} = {column} - {HOUR_MS}"))
        return round((ms_since_last_step(ledger) or 0) / HOUR_MS)

    for name in ("W1", "W2"):
        record_operation(ledger, name)
    assert aged("b2copy_operations", "requested_at") == 1, "since the oldest operation"
    run = start_run(ledger, "ada")
    assert aged("b2copy_reconciliation", "stepped_at") == 1, "since the run began"
    finish_run(ledger, run)
    assert aged("b2copy_reconciliation", "started_at") == 0
