"""A password of the Back Office is presented by one process at a time, and a try that was not made holds up nobody."""

from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from tests.operations import LedgerClock, lose_answer_to_next_commit
from worker.errors import Unavailable
from worker.ledger import Ledger, active_flags
from worker.ledger.refused_password_flags import UNANSWERED_S, RefusedPasswords


@pytest.fixture
def ours(ledger: Ledger) -> RefusedPasswords:
    return RefusedPasswords(lambda: ledger, "worker 1")


@pytest.fixture
def theirs(ledger: Ledger) -> RefusedPasswords:
    return RefusedPasswords(lambda: ledger, "worker 2")


def fail_next_read_of_flags(ledger: Ledger) -> None:
    def fail(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and "b2copy_flags" in statement:
            event.remove(ledger.engine, "before_cursor_execute", fail)
            raise OperationalError(statement, None, Exception("the connection was closed"))

    event.listen(ledger.engine, "before_cursor_execute", fail)


@pytest.mark.parametrize("fail_next", [lose_answer_to_next_commit, fail_next_read_of_flags])
def test_a_try_that_the_ledger_let_fail_is_made_by_the_next_one(
    ledger: Ledger, ours: RefusedPasswords, theirs: RefusedPasswords, clock: LedgerClock, fail_next: Any
) -> None:
    fail_next(ledger)
    with pytest.raises(Unavailable, match="the ledger is unavailable"):
        ours.begin("a fingerprint")
    clock.advance(UNANSWERED_S / 2)

    assert ours.begin("a fingerprint") is None

    clock.advance(UNANSWERED_S * 0.75)
    for each in (ours, theirs):
        with pytest.raises(Unavailable, match="another process presents this password"):
            each.begin("a fingerprint")
    ours.end("a fingerprint")
    assert theirs.begin("a fingerprint") is None


def test_a_try_whose_answer_was_lost_is_that_of_the_process_that_took_it_over(
    ledger: Ledger, ours: RefusedPasswords, theirs: RefusedPasswords, clock: LedgerClock
) -> None:
    lose_answer_to_next_commit(ledger)
    with pytest.raises(Unavailable, match="the ledger is unavailable"):
        ours.begin("a fingerprint")
    clock.advance(UNANSWERED_S + 1)
    assert theirs.begin("a fingerprint") is None

    with pytest.raises(Unavailable, match="another process presents this password"):
        ours.begin("a fingerprint")


def test_a_refused_password_is_not_tried_and_leaves_no_flag_of_a_try(ours: RefusedPasswords, ledger: Ledger) -> None:
    assert ours.begin("a fingerprint") is None
    ours.refuse("a fingerprint", "wrong e-mail or password")

    assert ours.begin("a fingerprint") == "wrong e-mail or password"
    assert list(active_flags(ledger)) == ["refused:back_office:a fingerprint"]
