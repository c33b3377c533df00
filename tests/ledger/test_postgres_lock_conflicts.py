"""Lock conflicts between transactions on PostgreSQL, each caused on purpose."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from sqlalchemy import event, text

from tests.ledger.databases import is_waiting_for_a_lock, on_postgresql
from tests.operations import (
    claim_due,
    claim_one,
    fail_operation,
    find_operation,
    hold_operation,
    make_wait,
    names_of,
    record_operations,
    succeed,
)
from tests.support import until
from worker.ledger import Ledger, active_flags, attempts_of, audit_of, make_due, pause, purge, replay
from worker.ledger.approvals import Approval, approve, decide_or_propose, decided_approvals, resume_or_propose
from worker.ledger.operator_actions import resolve
from worker.ledger.restore import distrust_restored
from worker.operation import State, WaitReason

CANCEL_A2 = """UPDATE b2copy_operations SET state = 'cancelled', due_at = NULL, wait_reason = NULL
               WHERE key = 'fees.process:A2'"""
LOCK = "UPDATE b2copy_operations SET kind = kind WHERE key = :key"


@on_postgresql
def test_the_next_of_a_line_may_be_cancelled_while_it_is_released(ledger: Ledger) -> None:
    record_operations(ledger, "A1", "A2", "A3", entity="A")
    first = claim_one(ledger)

    with ledger.engine.begin() as other, ThreadPoolExecutor(1) as threads:
        other.execute(text(CANCEL_A2))
        settling = threads.submit(succeed, ledger, first)
        until(lambda: is_waiting_for_a_lock(ledger))
        other.commit()
        assert settling.result(10) == []

    assert names_of(claim_due(ledger)) == ["A3"]


@on_postgresql
def test_a_transaction_that_a_deadlock_ended_is_retried(ledger: Ledger) -> None:
    record_operations(ledger, "W1", "W2")
    first, second = claim_due(ledger)

    with ledger.engine.begin() as other, ThreadPoolExecutor(1) as threads:
        other.execute(
            text("SET LOCAL deadlock_timeout = '60s'")
        )  # so that PostgreSQL ends our transaction, not this one
        other.execute(text(LOCK), {"key": second.key})
        settling = threads.submit(succeed, ledger, first, second)
        until(lambda: is_waiting_for_a_lock(ledger))
        other.execute(text(LOCK), {"key": first.key})
        other.commit()
        assert settling.result(10) == []

    assert find_operation(ledger, "W1").state == find_operation(ledger, "W2").state == State.SUCCEEDED


@on_postgresql
def test_what_waits_is_made_due_in_spite_of_a_deadlock(ledger: Ledger) -> None:
    record_operations(ledger, "W1", "W2")
    first, second = claim_due(ledger)
    make_wait(ledger, first, second)

    with ledger.engine.begin() as other, ThreadPoolExecutor(1) as threads:
        other.execute(text("SET LOCAL deadlock_timeout = '60s'"))
        other.execute(text(LOCK), {"key": second.key})
        making_due = threads.submit(make_due, ledger, "b2copy", WaitReason.BACKOFF)
        until(lambda: is_waiting_for_a_lock(ledger))
        other.execute(text(LOCK), {"key": first.key})
        other.commit()
        assert making_due.result(10) == 2

    assert set(names_of(claim_due(ledger))) == {"W1", "W2"}


@on_postgresql
def test_an_operation_may_be_purged_while_it_is_recorded_again(
    ledger: Ledger, open_again: Callable[[], Ledger]
) -> None:
    [old] = record_operations(ledger, "W1")
    succeed(ledger, claim_one(ledger))
    other = open_again()
    purged: list[int] = []

    def purge_before_the_select(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT") and not purged:
            purged.append(purge(other, -3600))

    event.listen(ledger.engine, "before_cursor_execute", purge_before_the_select)
    [again] = record_operations(ledger, "W1")

    assert purged == [1]
    assert again.created
    assert again.id > old.id


@on_postgresql
def test_a_claim_that_is_lost_while_it_is_settled_decides_nothing(ledger: Ledger) -> None:
    claimed = hold_operation(ledger, "W1")

    with ledger.engine.begin() as other, ThreadPoolExecutor(1) as threads:
        other.execute(text("UPDATE b2copy_operations SET lease_owner = 'worker 2', fence = fence + 1"))
        settling = threads.submit(succeed, ledger, claimed)
        until(lambda: is_waiting_for_a_lock(ledger))
        other.commit()
        assert settling.result(10) == [claimed]

    [attempt] = attempts_of(ledger, claimed.id)
    assert attempt.late


@on_postgresql
def test_two_people_who_replay_at_once_replay_once(ledger: Ledger) -> None:
    key = fail_operation(ledger, "W1")

    with ledger.engine.begin() as other, ThreadPoolExecutor(1) as threads:
        replayed = "state = 'queued', failure_reason = NULL, ended_at = NULL, due_at = state_since"
        other.execute(text(f"UPDATE b2copy_operations SET {replayed}"))
        replaying = threads.submit(replay, ledger, [key], "ada", "again")
        until(lambda: is_waiting_for_a_lock(ledger))
        other.commit()
        assert replaying.result(10) == []

    assert audit_of(ledger, key) == []


CLOSE = """UPDATE b2copy_approvals SET decision = 'rejected', decided_at = 1, decided_by = 'bob', decided_note = 'no'"""


def propose_replay(ledger: Ledger, actor: str) -> Approval:
    proposed = decide_or_propose(ledger, "replay", find_operation(ledger, "W1"), actor, "the account is open")
    assert isinstance(proposed, Approval)
    return proposed


@on_postgresql
def test_a_proposal_that_is_rejected_while_another_one_replaces_it_stays_rejected(ledger: Ledger) -> None:
    strict = replace(ledger, needs_approval=lambda kind, lane: True)
    key = fail_operation(ledger, "W1")
    void = propose_replay(strict, "ann")
    resolve(ledger, key, "carl", "not done", succeeded=False)

    with ledger.engine.begin() as other, ThreadPoolExecutor(1) as threads:
        other.execute(text(CLOSE))
        proposing = threads.submit(propose_replay, strict, "ann")
        until(lambda: is_waiting_for_a_lock(ledger))
        other.commit()
        proposed = proposing.result(10)

    assert proposed.id != void.id
    [decided] = decided_approvals(ledger)
    assert (decided.id, decided.decision, decided.decided_by) == (void.id, "rejected", "bob")
    assert [entry.action for entry in audit_of(ledger, key)].count(f"changed A{void.id}") == 0


@on_postgresql
def test_a_proposal_that_is_rejected_while_a_restored_ledger_is_distrusted_stays_rejected(ledger: Ledger) -> None:
    fail_operation(ledger, "W1")
    proposed = propose_replay(replace(ledger, needs_approval=lambda kind, lane: True), "ann")

    with ledger.engine.begin() as other, ThreadPoolExecutor(1) as threads:
        other.execute(text(CLOSE))
        distrusting = threads.submit(distrust_restored, ledger, {}, "ada", "from a backup")
        until(lambda: is_waiting_for_a_lock(ledger))
        other.commit()
        distrusting.result(10)

    [decided] = decided_approvals(ledger)
    assert (decided.id, decided.decision, decided.decided_by) == (proposed.id, "rejected", "bob")


@on_postgresql
def test_an_approval_does_not_end_another_pause_than_the_one_that_was_seen(ledger: Ledger) -> None:
    strict = replace(ledger, needs_approval=lambda kind, lane: True)
    pause(ledger, "money", "ann", "B2COPY is being upgraded")
    proposed = resume_or_propose(strict, "money", "ann", "it is done")
    assert isinstance(proposed, Approval)

    with ledger.engine.begin() as other, ThreadPoolExecutor(1) as threads:
        other.execute(text("UPDATE b2copy_flags SET since = since + 1, note = 'paused again'"))
        approving = threads.submit(approve, strict, proposed.id, "bob", "yes")
        until(lambda: is_waiting_for_a_lock(ledger))
        other.commit()
        assert approving.result(10).decision == "changed"

    assert active_flags(ledger)["pause:money"].note == "paused again"
