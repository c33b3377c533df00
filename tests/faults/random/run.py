"""One random run: two workers, a beat, three clients, an operator, and the faults of a plan."""

import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.faults.ledger.crm import CLIENTS
from tests.faults.ledger.system import System
from tests.faults.random.judge import broken_promises, not_drained
from tests.faults.random.operator import Operator
from tests.faults.random.plan import Event, Plan
from worker.ledger.schema import c
from worker.testbed.local_system import Environment


def run_plan(plan: Plan, saves_logs: bool = True, **more: Any) -> tuple[dict[str, Any], list[str]]:
    """Run a plan. Returns the row of the table, and the broken promises. `more` are further options of the system."""
    print(f"    {plan}", file=sys.stderr, flush=True)
    with (
        Environment() as environment,
        System(environment, plan.database, clients=CLIENTS, **plan.options | more) as system,
    ):
        operator = Operator(system)
        system.start_crm()
        system.wait_for_load()
        with ThreadPoolExecutor() as threads:
            running = [
                threads.submit(_run_events, system, plan.ours),
                threads.submit(_run_events, system, plan.theirs),
                threads.submit(_run_actions, system, operator, plan),
            ]
        for each in running:
            each.result()
        system.environment.sandbox.control.faults()
        operator.resume_all()
        system.go_on(2.0)
        system.stop_crm()
        system.drain()
        problems = not_drained(system, operator)
        unresolved = operator.settle_unresolved()
        system.drain()
        problems += broken_promises(system, plan, operator)
        if problems and saves_logs:
            system.save_logs()
        counters = environment.sandbox.control.counters()
        return {
            "operations": system.count(),
            "succeeded": system.count(c.state == "succeeded"),
            "fee errors": system.count(c.failure_reason == "fee_error"),
            "cancelled": len(operator.cancelled),
            "decisions": operator.decisions,
            "unresolved": unresolved,
            "logins": counters["logins"],
            "starts": sum(worker.started for worker in system.workers),
        }, problems


def _run_events(system: System, events: Iterable[Event]) -> None:
    for event in events:
        system.go_on(event.after_s)
        event.run(system)


def _run_actions(system: System, operator: Operator, plan: Plan) -> None:
    for action in plan.operator:
        system.go_on(action.after_s)
        operator.act(action)
