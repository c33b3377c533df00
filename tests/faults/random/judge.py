"""Every promise, checked at the end of a random run. Each function returns the promises that are broken."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import func, select

from tests.faults.ledger.crm import ROLLED_BACK
from tests.faults.ledger.promises import (
    DRAINED_S,
    EXPECTED,
    Accepted,
    Effects,
    accepted,
    effects_by_key,
    not_as_requested,
    not_recorded,
    operations_by_key,
    overtaken,
    result_of_another,
)
from tests.faults.ledger.system import System
from tests.faults.random.operator import Operator
from tests.faults.random.plan import Plan
from worker.ledger.schema import attempts, audit, c


def broken_promises(system: System, plan: Plan, operator: Operator) -> list[str]:
    """Return a line for each broken promise."""
    notes = accepted(system)
    requests = [each for each in notes if each.what != ROLLED_BACK]
    recorded, effects = operations_by_key(system), effects_by_key(system)
    return [
        *_lost(plan, notes, recorded),
        *_outcomes(requests, recorded, effects, operator),
        *_evidence(system, requests, recorded, operator),
        *_session(system, plan),
    ]


def not_drained(system: System, operator: Operator) -> list[str]:
    """Return the operations that became final too late. Checked before the operator settles unresolved ones."""
    recorded = operations_by_key(system)
    late = []
    for request in accepted(system):
        row = recorded.get(request.key)
        if row is not None and row.ended_at is not None and request.key not in operator.touched:
            after_s = row.ended_at / 1000 - max(system.fault_ended, request.at)
            if after_s > DRAINED_S:
                late.append(f"{request.key} became final {after_s:.1f} s after the last fault")
    return late


def _lost(plan: Plan, notes: list[Accepted], recorded: dict[str, Any]) -> Iterator[str]:
    missing = [each for each in notes if each.what != ROLLED_BACK and each.key not in recorded]
    yield from (f"{each.key} was accepted and is lost" for each in missing if each.client != "message")
    messages = [each.key for each in missing if each.client == "message"]
    if len(messages) > sum(event.may_lose for event in plan.ours):
        yield f"{len(messages)} messages are lost: {', '.join(messages[:5])}"
    yield from (f"{each.key} was rolled back and exists" for each in notes
                if each.what == ROLLED_BACK and each.key in recorded)  # fmt: skip


def _outcomes(
    requests: list[Accepted], recorded: dict[str, Any], effects: dict[str, Effects], operator: Operator
) -> Iterator[str]:
    """Nothing is done twice, wrongly failed, open or out of order, and what was cancelled was never sent."""
    yield from not_recorded(effects, recorded)
    yield from overtaken(requests, recorded, effects)
    for request in requests:
        row, carried_out = recorded.get(request.key), effects.get(request.key)
        times = carried_out.times if carried_out is not None else 0
        yield from not_as_requested(request, carried_out)
        if row is None:
            continue
        is_cancelled = request.key in operator.cancelled
        expected = ("cancelled", None) if is_cancelled else EXPECTED[request.what]
        if (row.state, row.failure_reason) != expected:
            yield f"{request.key} is {row.state} {row.failure_reason or ''}, expected {expected}"
        if request.key not in operator.touched and (problem := result_of_another(request, row)):
            yield problem
        if is_cancelled and times:
            yield f"{request.key} was cancelled, but B2COPY carried it out"
        if not is_cancelled and not times:
            yield f"{request.key} is {row.state}, but B2COPY never carried it out"
        if times > 1 and request.what != "repeatable":
            yield f"{request.key} was carried out {times} times"


def _evidence(system: System, requests: list[Accepted], recorded: dict[str, Any], operator: Operator) -> Iterator[str]:
    """Every operation that was sent has attempts, the last of which agrees with its state; the audit is complete."""
    for request in requests:
        row = recorded.get(request.key)
        if row is not None and request.key not in operator.cancelled and not row.has_evidence:
            yield f"{request.key} is {row.state} without any evidence"
    done = select(c.key).where(
        c.state == "succeeded",
        c.key.not_in(operator.touched),
        ~select(attempts.c.fence).where(attempts.c.operation_id == c.id, attempts.c.outcome == "done").exists(),
    )
    decisions = select(func.count()).select_from(audit).where(audit.c.actor == "operator")
    with system.ledger() as ledger, ledger.reading() as connection:
        for key in connection.execute(done).scalars():
            yield f"{key} succeeded, but no attempt says so"
        entries = connection.execute(decisions).scalar_one()
    if entries != operator.decisions:
        yield f"the audit holds {entries} decisions of the operator, who made {operator.decisions}"


def _session(system: System, plan: Plan) -> Iterator[str]:
    """One login, and one more for each fault that costs the session; no refresh token is used twice."""
    counters = system.environment.sandbox.control.counters()
    allowed = 1 + sum(event.costs_session for event in (*plan.ours, *plan.theirs))
    if counters["logins"] > allowed:
        yield f"{counters['logins']} logins, at most {allowed} were necessary"
    if counters["refresh_reuses"]:
        yield f"{counters['refresh_reuses']} refresh tokens were used twice"
