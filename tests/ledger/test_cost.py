"""An operation costs the same in a small ledger and in a large one: SQL statements, and steps of SQLite's machine."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from tests.ledger.databases import on_postgresql, on_sqlite
from tests.operations import attempt_record, claim_due, make_wait, record_operations, succeed
from worker.ledger import Ledger, count_due, ordering, renew_leases, settle_and_claim
from worker.ledger.batches import pause_batch, sweep
from worker.ledger.notices import are_notices_wanted
from worker.operation import State, Transition, WaitReason


@pytest.fixture(autouse=True)
def without_a_look_for_notices(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the CRM wants notices is looked up every ten seconds, however many operations end: not counted here."""
    with ledger.reading() as connection:
        are_notices_wanted(connection)
    monkeypatch.setattr("worker.ledger.notices.LOOK_AGAIN_S", 3600.0)


@contextmanager
def statements_of(ledger: Ledger) -> Iterator[list[str]]:
    statements: list[str] = []

    def note(*call: object) -> None:
        statements.append(str(call[2]))

    event.listen(ledger.engine, "before_cursor_execute", note)
    yield statements
    event.remove(ledger.engine, "before_cursor_execute", note)


@contextmanager
def steps_of(ledger: Ledger) -> Iterator[list[int]]:
    """Counts the instructions that SQLite's virtual machine runs, in tens."""
    steps = [0]

    def step() -> int:
        steps[0] += 1
        return 0

    with ledger.engine.connect() as connection:
        sqlite = connection.connection.dbapi_connection
    assert sqlite is not None
    sqlite.set_progress_handler(step, 10)
    yield steps
    sqlite.set_progress_handler(None, 0)


def work_through(ledger: Ledger, operations: int) -> None:
    """Claim and settle as a lane does, a hundred operations to a transaction."""
    transitions: list[Transition] = []
    left = operations
    while left:
        lost, claims = settle_and_claim(ledger, transitions, "money", "worker 1", min(100, left))
        assert (lost, bool(claims)) == ([], True)
        transitions = [Transition(one, State.SUCCEEDED, attempt=attempt_record()) for one in claims]
        left -= len(claims)
    settle_and_claim(ledger, transitions, "money", "worker 1", 0)


def test_statements_per_operation_do_not_grow_with_the_ledger(ledger: Ledger) -> None:
    def statements(name: str) -> int:
        with statements_of(ledger) as sent:
            work_through(ledger, 300)
            renew_leases(ledger, "worker 1", claim_due(ledger, limit=10))
            record_operations(ledger, name)
            count_due(ledger)
        return len(sent)

    record_operations(ledger, *(f"few{number}" for number in range(400)))
    few = statements("small")
    record_operations(ledger, *(f"many{number}" for number in range(10_000)))

    assert statements("large") == few


def test_a_settled_and_claimed_hundred_takes_few_statements(ledger: Ledger) -> None:
    record_operations(ledger, *(f"W{number}" for number in range(200)))
    claims = claim_due(ledger)

    with statements_of(ledger) as sent:
        settle_and_claim(
            ledger,
            [Transition(one, State.SUCCEEDED, attempt=attempt_record()) for one in claims],
            "money",
            "worker 1",
            100,
        )

    assert len([statement for statement in sent if not statement.startswith("BEGIN")]) == 6


def test_recording_one_is_one_statement(ledger: Ledger) -> None:
    with statements_of(ledger) as sent:
        record_operations(ledger, "W1")

    assert len([statement for statement in sent if not statement.startswith("BEGIN")]) == 1


@on_sqlite
@pytest.mark.parametrize("more", ["waiting to be claimed", "done", "waiting in one entity's line"])
def test_work_per_operation_does_not_grow_with_the_ledger(
    ledger: Ledger, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What was just parked is not due again in this test.
    monkeypatch.setattr(ordering, "FIRST_RECHECK_MS", ordering.RECHECK_MS)

    def steps(doing: Callable[[], object]) -> int:
        with steps_of(ledger) as sent:
            doing()
        return sent[0]

    def some_work(name: str) -> None:
        record_operations(ledger, *(f"{name}{number}" for number in range(200)))
        work_through(ledger, 200)
        renew_leases(ledger, "worker 1", claim_due(ledger, limit=10))
        succeed(ledger, *claim_due(ledger, limit=10))
        if more != "waiting to be claimed":  # count_due reads each of those, up to COUNT_LIMIT
            count_due(ledger)

    record_operations(ledger, *(f"few{number}" for number in range(200)))
    small = steps(lambda: some_work("small"))

    match more:
        case "waiting to be claimed":
            record_operations(ledger, *(f"many{number}" for number in range(10_000)))
        case "done":
            record_operations(ledger, *(f"many{number}" for number in range(10_000)))
            work_through(ledger, 10_000)
        case _:
            record_operations(ledger, *(f"many{number}" for number in range(5_000)), entity="123456")
            claim_due(ledger, limit=1000)  # the first is running, and the others are parked

    assert steps(lambda: some_work("large")) < 1.3 * small


@on_postgresql
def test_operations_that_are_not_due_are_not_read(ledger: Ledger) -> None:
    record_operations(ledger, *(f"W{number}" for number in range(3000)))
    make_wait(ledger, *claim_due(ledger, limit=3000), wait_reason=WaitReason.PENDING_AT_B2COPY, due_in_s=3600)
    record_operations(ledger, "new")
    with ledger.engine.raw_connection() as connection:
        connection.cursor().execute("VACUUM ANALYZE b2copy_operations")

    with explained(ledger) as plans:
        claim_due(ledger, limit=10)
        count_due(ledger)

    conditions = [line for line in plans if "Index Cond" in line and "phase" in line]
    assert len(conditions) >= 2
    assert all("due_at <=" in line for line in conditions), plans


@contextmanager
def explained(ledger: Ledger) -> Iterator[list[str]]:
    """Collects PostgreSQL's plans of the queries that are sent."""
    plans: list[str] = []

    def explain(_connection: object, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith("SELECT"):
            with cursor.connection.cursor() as other:
                plans.extend(row[0] for row in other.execute(f"EXPLAIN {statement}", parameters))

    event.listen(ledger.engine, "before_cursor_execute", explain)
    yield plans
    event.remove(ledger.engine, "before_cursor_execute", explain)


@on_sqlite
def test_a_claim_costs_the_same_behind_any_number_of_an_account_that_are_put_aside(ledger: Ledger) -> None:
    def steps(name: str, count: int) -> int:
        record_operations(ledger, *(f"{name}{number}" for number in range(count)), lane="bulk", batch=name, entity=name)
        pause_batch(ledger, name, "ada", "wrong file?")
        sweep(ledger, 30.0)
        record_operations(ledger, f"W{name}", entity=name)
        with steps_of(ledger) as found:
            assert len(claim_due(ledger)) == 1
        return found[0]

    steps("warm", 1)

    assert steps("many", 1_000) <= 1.1 * steps("few", 10)
