"""Run a reconciliation to its end, through whatever goes wrong for a while."""

import time
from collections.abc import Callable

from worker.errors import AccessRejected, Transient, UnknownOutcome
from worker.ledger import Ledger, active_flags
from worker.ledger.reconciliation import Run
from worker.reconcile.pace import Pace
from worker.reconcile.steps import Find, Reconciler

FAILURES_MAX = 8  # requests in a row without a usable answer, after which somebody should look
_WAIT_MAX_S = 10.0  # seconds between two of them


class Paused(Exception):
    """All lanes are paused: nothing is sent to B2COPY."""


def is_paused(ledger: Ledger) -> bool:
    """Return whether a person has stopped all requests to B2COPY."""
    return "pause:all" in active_flags(ledger)


def run_to_end(ledger: Ledger, run: Run, find: Find, pace: Pace, show: Callable[[Run], None]) -> Run:
    """Make all steps that are left; `show` is called after each. Returns the finished run.

    Raises `Paused`, `ListUnusable`, and the last error of `worker.errors` if B2COPY does not answer for long. What was
    done is in the ledger, so the run continues where it was.
    """
    reconciler, failures = Reconciler(ledger, find, pace.one_request), 0
    while run.phase != "finished":
        if is_paused(ledger):
            raise Paused
        try:
            run = reconciler.step(run) or run
        except (Transient, UnknownOutcome) as error:
            failures += 1
            if failures >= FAILURES_MAX or isinstance(error, AccessRejected):
                raise
            pace.slow_down(error)
            time.sleep(min(_WAIT_MAX_S, 2.0 ** (failures - 1) / 2))
        else:
            failures = 0
        show(run)
    return run
