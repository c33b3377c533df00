"""Late answers: answers of B2COPY that a process could store only after its lease had lapsed.

    worker 1   claim, fence 4 ── request ── answer ── (the ledger is unavailable) ── settle: lost, and known
    worker 2                                          claim, fence 5: the outcome is unknown ── failed: unresolved

The next holder of an operation that must not be repeated sends nothing, and fails it as unresolved. If the first
holder's answer says how the operation ended, the answer decides the operation if nothing was sent after the claim whose
request was answered, if no person has decided anything about the operation since, and in three cases:

1. The operation has failed as unresolved.
2. The operation waits, because the next holder has returned it unsent or has left it to a newer version, and the holder
   after that one must not send anything.
3. The next holder still holds the operation and must not send anything, and the answer is a success.

"Must not send": the stored `on_unknown` is "stop". If the kind's is a function, a holder may send what B2COPY refuses
to do twice.

In any other case a later request may have changed what the answer says. Then the answer is stored as evidence only.
"""

from collections.abc import Sequence

from sqlalchemy import Boolean, Connection, bindparam, exists, null, select, update

from worker.ledger.audit import record_audit
from worker.ledger.insert_operations import encode_result
from worker.ledger.on_operation_end import Ended, finish_ended
from worker.ledger.schema import allowed_from, attempts, audit, c, operations, sql_literal
from worker.operation import FINAL, FailureReason, OnUnknown, State, Transition

_nothing_sent_since = ~exists().where(attempts.c.operation_id == c.id, attempts.c.fence > bindparam("answered"))
_nobody_stopped_it = ~exists().where(audit.c.subject == c.key, audit.c.action == "stop_asking")
_is_unresolved = (
    (c.state == sql_literal(State.FAILED))
    & (c.failure_reason == sql_literal(FailureReason.UNRESOLVED))
    & _nobody_stopped_it
)
_is_held = c.state == sql_literal(State.RUNNING)
_is_about_to_fail = (c.on_unknown == sql_literal(OnUnknown.STOP)) & (
    (c.state == sql_literal(State.WAITING)) | (_is_held & bindparam("is_success", type_=Boolean))
)
_UNDECIDED = select(c.state, c.failure_reason).where(
    c.id == bindparam("wanted"),
    c.outcome_unknown,
    c.replays == bindparam("replayed"),
    c.fence > bindparam("answered"),
    _nothing_sent_since,
    _is_unresolved | _is_about_to_fail,
)
_DECIDE = (
    update(operations)
    .where(c.id == bindparam("wanted"), allowed_from("late_answer"))
    .values(
        state=bindparam("new_state"),
        wait_reason=null(),
        failure_reason=bindparam("new_failure_reason"),
        lease_owner=null(),
        due_at=null(),
        outcome_unknown=False,
        unknown_step=null(),
        progress=null(),
        result=bindparam("new_result"),
        state_since=bindparam("now"),
        ended_at=bindparam("now"),
    )
)


def decide_by_late_answers(connection: Connection, lost: Sequence[Transition], now: int) -> None:
    """Apply the late answers that may still decide. The caller has locked the operations and stored the evidence."""
    for transition in lost:
        if transition.state not in FINAL or not transition.outcome_known:
            continue
        claim = transition.claim
        asked = {
            "wanted": claim.id,
            "replayed": claim.replays,
            "answered": claim.fence,
            "is_success": transition.state == State.SUCCEEDED,
        }
        before = connection.execute(_UNDECIDED, asked).first()
        if before is None:
            continue
        values = {
            "wanted": claim.id,
            "now": now,
            "new_state": transition.state,
            "new_failure_reason": transition.failure_reason,
            "new_result": encode_result(transition.result),
        }
        connection.execute(_DECIDE, values)
        record_audit(
            connection,
            "late_answer",
            claim.lease_owner,
            "the answer came after the lease had lapsed",
            claim.key,
            before=before._asdict(),
            after={"state": transition.state, "failure_reason": transition.failure_reason},
        )
        finish_ended(connection, [Ended(claim.id, claim.key, claim.entity, transition.state)], now)
