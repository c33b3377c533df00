"""Transactions that cross on PostgreSQL, each brought about on purpose."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import event, text

from tests.ledger.actors import look, names, on_postgresql, put, succeed, take, take_one
from tests.support import until
from worker.ledger import Ledger, purge
from worker.operation import State

CANCELLED = "UPDATE b2copy_operations SET state = 'cancelled', due_at = NULL, why = NULL WHERE key = 'fees.process:A2'"
TOUCHED = "UPDATE b2copy_operations SET kind = kind WHERE key = :key"


def somebody_waits(ledger: Ledger) -> bool:
    with ledger.reading() as connection:
        return bool(connection.execute(text("SELECT count(*) FROM pg_locks WHERE NOT granted")).scalar())


@on_postgresql
def test_the_next_of_a_line_may_be_cancelled_while_it_is_released(ledger: Ledger) -> None:
    put(ledger, "A1", "A2", "A3", entity="A")
    first = take_one(ledger)

    with ledger.engine.begin() as other, ThreadPoolExecutor(1) as crowd:
        other.execute(text(CANCELLED))
        settling = crowd.submit(succeed, ledger, first)
        until(lambda: somebody_waits(ledger))
        other.commit()
        assert settling.result(10) == []

    assert names(take(ledger)) == ["A3"]


@on_postgresql
def test_a_transaction_undone_by_a_deadlock_is_done_again(ledger: Ledger) -> None:
    put(ledger, "W1", "W2")
    first, second = take(ledger)

    with ledger.engine.begin() as other, ThreadPoolExecutor(1) as crowd:
        other.execute(text("SET LOCAL deadlock_timeout = '60s'"))  # so that it is ours that is undone
        other.execute(text(TOUCHED), {"key": second.key})
        settling = crowd.submit(succeed, ledger, first, second)
        until(lambda: somebody_waits(ledger))
        other.execute(text(TOUCHED), {"key": first.key})
        other.commit()
        assert settling.result(10) == []

    assert look(ledger, "W1").state == look(ledger, "W2").state == State.SUCCEEDED


@on_postgresql
def test_an_operation_may_be_purged_while_it_is_asked_for_again(ledger: Ledger, reopen: Callable[[], Ledger]) -> None:
    [old] = put(ledger, "W1")
    succeed(ledger, take_one(ledger))
    other = reopen()
    purged: list[int] = []

    def purge_before_the_look(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and not purged:
            purged.append(purge(other, -3600))

    event.listen(ledger.engine, "before_cursor_execute", purge_before_the_look)
    [again] = put(ledger, "W1")

    assert purged == [1]
    assert again.created
    assert again.id > old.id
