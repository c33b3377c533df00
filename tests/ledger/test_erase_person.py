"""deploy/postgres/erase_person.sql leaves nothing about a login, and everything about the others."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from tests.ledger.databases import on_postgresql
from tests.operations import claim_named, fail, fail_operation, find_operation, record_operation, succeed_operation
from worker.ledger import (
    Identity,
    Ledger,
    cancel,
    identities_of,
    leave_request,
    mark_closed,
    replay,
    search,
    store_identities,
)
from worker.ledger.approvals import decided_approvals, propose
from worker.ledger.operator_actions import correct
from worker.ledger.reconciliation import AccountThere, Candidate, Difference, decide, start_run, store_page
from worker.ledger.schema import metadata
from worker.operation import FailureReason, State

SCRIPT = Path(__file__).parents[2] / "deploy" / "postgres" / "erase_person.sql"
THEIRS, OTHER = "700100", "1700100"
LEFT_IN_KEYS = {"b2copy_audit", "b2copy_approvals"}


def fill(ledger: Ledger, login: str) -> None:
    payload = {"account_login": login, "request_id": f"W{login}"}
    fail_operation(ledger, f"W{login}", payload=payload, message=f"account {login} is closed")
    correct(ledger, f"fees.process:W{login}", payload | {"request_id": "W"}, "ann", f"typed {login} wrong")
    body = {"path": "/x", "body": {"account": int(login)}}
    fail_operation(ledger, f"call {login}", kind="call", payload=body, lane="money")
    proposed = fail_operation(ledger, f"P{login}", payload=payload | {"request_id": f"P{login}"})
    seen = find_operation(ledger, f"P{login}").change_mark
    result = {"succeeded": True, "result": {"login": login}}
    propose(ledger, "resolve", proposed, "ann", f"{login} was paid", seen, result)
    fail_operation(ledger, f"N{login}", kind="crm.notify", payload={"id": login, "body": f'{{"login":"{login}"}}'})
    store_identities(ledger, [Identity("1", login, f"C-{login}")])
    mark_closed(ledger, "1", login, "ann", f"{login} left")
    with ledger.writing() as connection:
        insert = (
            "INSERT INTO b2copy_requests (kind, payload) VALUES ('fees.process', '{\"account_login\": \""
            + login
            + "\"}')"
        )
        connection.exec_driver_sql(insert)


def fill_reconciliation(ledger: Ledger) -> None:
    accounts = [AccountThere("1", login, "5", "6") for login in (OTHER, THEIRS)]
    run = store_page(ledger, start_run(ledger, "ann"), accounts, 2, is_end=True)
    differ = [Difference("1", login, "different", {}) for login in (OTHER, THEIRS)]
    decide(ledger, run, [Candidate("here", "1", OTHER, None, ())], differ, 1)


def rows_with(ledger: Ledger, text: str) -> dict[str, int]:
    """Return how many rows of each table hold a text, as a word of its own, anywhere."""
    found = {}
    with ledger.reading() as connection:
        for table in metadata.sorted_tables:
            query = f"SELECT count(*) FROM {table.name} AS t WHERE t::text ~ '\\y[WPNC]?-?{text}\\y'"
            if count := connection.exec_driver_sql(query).scalar_one():
                found[table.name] = count
    return found


def run_script(ledger: Ledger, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Run the script. `meanwhile`: what others do after it has looked, and before it deletes anything."""
    statements: Any = SCRIPT.read_text().replace(":'login'", f"'{THEIRS}'").replace(":'platform'", "'1'")
    look, delete, rest = statements.partition("DELETE FROM b2copy_operations")
    with ledger.writing() as connection:
        driver: Any = connection.connection.dbapi_connection
        driver.execute(look)
        meanwhile()
        driver.execute(delete + rest)


@on_postgresql
def test_a_person_is_erased_from_every_table_and_the_others_stay(ledger: Ledger) -> None:
    fill(ledger, THEIRS)
    fill(ledger, OTHER)
    fill_reconciliation(ledger)
    before, of_others = rows_with(ledger, THEIRS), rows_with(ledger, OTHER)
    assert len(before) == 9
    assert before == of_others

    run_script(ledger)
    # What the correction has queued again stays until it has ended.
    open_tables = {"b2copy_operations", "b2copy_attempts", "b2copy_requests"}
    assert rows_with(ledger, THEIRS).keys() <= open_tables | LEFT_IN_KEYS
    assert "b2copy_requests" in rows_with(ledger, THEIRS)  # it was accepted: it stays until a worker has taken it
    with ledger.writing() as connection:
        connection.execute(
            text("DELETE FROM b2copy_requests WHERE position(:login in payload) > 0"), {"login": f'"{THEIRS}"'}
        )
        ends = "state = 'cancelled', due_at = NULL, ended_at = 1"
        connection.exec_driver_sql(f"UPDATE b2copy_operations SET {ends} WHERE state = 'queued'")
    run_script(ledger)
    assert rows_with(ledger, THEIRS).keys() <= LEFT_IN_KEYS

    with ledger.reading() as connection:
        texts = connection.exec_driver_sql(
            "SELECT concat(actor, note, detail) FROM b2copy_audit UNION ALL"
            " SELECT concat(proposed_by, note, arguments, decided_note) FROM b2copy_approvals"
        ).scalars()
        assert not [found for found in texts if THEIRS in found.replace(OTHER, "")]
        closed = connection.exec_driver_sql("SELECT subject FROM b2copy_audit WHERE starts_with(subject, 'identity ')")
        assert set(closed.scalars()) == {f"identity 1/{OTHER}", "identity [erased]"}
    assert rows_with(ledger, OTHER) == of_others


@on_postgresql
def test_what_has_the_same_digits_and_is_no_login_of_that_platform_stays(ledger: Ledger) -> None:
    fee = fail_operation(ledger, THEIRS, payload={"account_login": OTHER, "request_id": THEIRS})
    succeed_operation(ledger, f"1/{OTHER}", kind="clients.register", result={"client_id": int(THEIRS)})
    of_platform_2 = [
        fail_operation(ledger, f"2/{THEIRS}", kind=kind, payload={"login": THEIRS, "platform": platform})
        for kind, platform in (("clients.register", 2), ("accounts.create", "2"))
    ]
    call = {"path": "/x", "body": {"platform": 2, "login": THEIRS}}
    of_platform_2.append(fail_operation(ledger, "C1", kind="call", lane="default", entity=THEIRS, payload=call))
    store_identities(ledger, [Identity("2", THEIRS, "C-2"), Identity("1", OTHER, client_id=THEIRS)])
    leave_request(ledger, "fees.process", f'{{"account_login": "{OTHER}", "request_id": "{THEIRS}"}}', "crm", None)

    run_script(ledger)

    assert {one.key for one in search(ledger)} == {fee, f"clients.register:1/{OTHER}", *of_platform_2}
    assert [one.platform for one in identities_of(ledger, login=THEIRS)] == ["2"]
    with ledger.reading() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM b2copy_requests").scalar_one() == 1


@on_postgresql
def test_an_operation_that_a_person_replays_meanwhile_stays(ledger: Ledger) -> None:
    key = fail_operation(ledger, THEIRS, payload={"account_login": THEIRS, "request_id": THEIRS})

    run_script(ledger, meanwhile=lambda: replay(ledger, [key], "ann", "asked for"))

    assert [one.key for one in search(ledger)] == [key]
    assert find_operation(ledger, THEIRS).state == State.QUEUED


@on_postgresql
def test_what_nobody_has_decided_and_what_others_wait_for_stays(ledger: Ledger) -> None:
    payload = {"login": THEIRS, "platform": "1"}
    unresolved = fail_operation(ledger, "1/1", FailureReason.UNRESOLVED, kind="call", payload=payload)
    parent = succeed_operation(ledger, "1/2", kind="clients.register", payload=payload)
    child = record_operation(ledger, "1/3", kind="accounts.create", parent=parent, payload={"login": "5"}).key

    run_script(ledger)
    assert {one.key for one in search(ledger)} == {unresolved, parent, child}

    claimed = claim_named(ledger, "1/3", "accounts.create")
    fail(ledger, claimed, failure_reason="client_unknown", sent=False)
    run_script(ledger)
    assert {one.key for one in search(ledger)} == {unresolved, parent, child}  # the failed one may be replayed

    replay(ledger, [child], "ann", "wrong")
    cancel(ledger, child, "ann", "not wanted")
    run_script(ledger)
    assert {one.key for one in search(ledger)} == {unresolved, child}


@on_postgresql
def test_an_open_proposal_that_names_the_login_is_closed(ledger: Ledger) -> None:
    key = fail_operation(ledger, "W", payload={"account_login": OTHER, "request_id": "W"})
    payload = {"payload": {"account_login": THEIRS, "request_id": "W"}}
    made = propose(ledger, "correct", key, "ann", "typed wrong", find_operation(ledger, "W").change_mark, payload)

    run_script(ledger)

    [closed] = decided_approvals(ledger)
    assert (closed.id, closed.decision, closed.decided_by) == (made.id, "changed", "b2copy-sync")
    propose(ledger, "replay", key, "ann", "again", find_operation(ledger, "W").change_mark, {})
