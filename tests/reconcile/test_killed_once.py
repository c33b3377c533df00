"""The command, killed once and resumed, on a small book. `make chaos` does it with a hundred thousand accounts."""

from collections.abc import Callable

from tests.ledger.databases import on_sqlite
from tests.reconcile.killed_once import reconcile_killed_once
from worker.ledger import Ledger
from worker.testbed.local_system import Environment
from worker.testbed.processes import Process


@on_sqlite
def test_exactly_the_planted_differences_are_found_by_a_run_that_was_killed_once(
    fleet: Environment, ledger: Ledger, worker: Callable[..., Process]
) -> None:
    fleet.settings["B2COPY_CALL_DEADLINE"] = "2"  # a process that is killed keeps its turn for so long
    fleet.sandbox.control.switches(latency={"accounts.list": 0.01})
    worker(B2COPY_RATE_LIMIT="0")

    ended = reconcile_killed_once(fleet, ledger, accounts=1_500, planted=10, opened=10)

    assert (ended.code, ended.wrong) == (6, [])
    assert ended.document["differences"] == {
        "missing_there": 3, "missing_here": 3, "closed_here": 0, "different": 4, "unclear": 0,
    }  # fmt: skip
    # 1,510 accounts, of which each page repeats one; ten look-ups at most; the request that was killed.
    assert ended.requests <= 1_510 // 99 + 2 + 10 + 1
