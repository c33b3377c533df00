"""The table of moves, and that every SQL statement which writes a state is guarded by the states it may start from."""

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

from sqlalchemy import Update
from sqlalchemy.dialects import sqlite

import worker.ledger
from worker.ledger.prepared_statements import Prepared, PreparedForRows
from worker.ledger.schema import operations
from worker.operation import FINAL, MOVES, State


def test_only_a_claim_its_end_a_late_answer_the_end_of_a_notice_and_an_unreadable_row_leave_the_state_running() -> None:
    leaving = {name for name, move in MOVES.items() if State.RUNNING in move.before}

    assert leaving == {"claim", "settle", "return_unsent", "late_answer", "supersede", "cancel_notice", "refuse"}


def test_a_final_state_is_left_only_by_a_persons_decision_or_a_late_answer() -> None:
    leaving = {name: move.before & FINAL for name, move in MOVES.items() if move.before & FINAL}

    assert set(leaving) == {"replay", "correct", "resolve", "late_answer"}
    assert set(leaving.values()) == {frozenset({State.FAILED})}


def update_statements() -> Iterator[tuple[str, Update]]:
    for module in iter_modules(worker.ledger.__path__):
        if module.ispkg:
            continue
        for name, value in vars(import_module(f"worker.ledger.{module.name}")).items():
            statement = value
            if isinstance(value, Prepared):
                statement = value._statement
            elif isinstance(value, PreparedForRows):
                given = dict.fromkeys(value._columns, operations.c.id)
                statement = value._build(given, "sqlite")
            if isinstance(statement, Update):
                yield f"{module.name}.{name}", statement


def test_every_statement_that_writes_a_state_is_guarded() -> None:
    texts = {name: str(statement.compile(dialect=sqlite.dialect())) for name, statement in update_statements()}
    writing = {name for name, sql in texts.items() if " state=" in sql.partition("WHERE")[0]}

    assert writing == {
        "claims._CLAIM", "claims._PARK", "claims._EXPIRE", "claims._REFUSE", "claims._RETURN_UNSENT", "settle._SETTLE",
        "late_answers._DECIDE", "decision_sql._REPLAY", "decision_sql._CORRECT", "decision_sql._RESOLVE",
        "decision_sql._CANCEL", "decision_sql._STOP_ASKING", "notices._SUPERSEDE", "notices._CANCEL",
        "batches._CANCEL",
        "batches._LEAVE_UNRESOLVED",
    }  # fmt: skip
    guard = "b2copy_operations.state IN ("
    assert {name for name in writing if guard not in texts[name].rpartition("WHERE b2copy_operations")[2]} == set()
