"""The scheduled reconciliation."""

import logging
import threading
import time
from functools import cache

from worker.app import app
from worker.b2copy.routes.account_fields import Account
from worker.b2copy.routes.account_list import AccountSearch
from worker.current_user import current_user
from worker.errors import B2CopyError
from worker.http import event_loop
from worker.instances import b2copy, ledger
from worker.ledger.reconciliation import Run, count_differences, is_due, start_run
from worker.per_process import PerProcess
from worker.reconcile.pace import Pace
from worker.reconcile.run import is_paused
from worker.reconcile.steps import ListUnusable, Reconciler
from worker.settings import crm_settings, worker_settings

log = logging.getLogger(__name__)

SLICE_S = 0.5  # seconds of each second for which the job keeps a worker's slot
REST_S, LONG_REST_S = 10.0, 600.0  # seconds without a request after no usable answer, and after an unusable list


def find_accounts(search: AccountSearch) -> list[Account]:
    """Send one request for accounts, and wait for its answer."""
    return event_loop().run(b2copy().accounts(search))


class _Slices:
    """The scheduled reconciliation in this process: a slice of its steps at a time."""

    def __init__(self) -> None:
        self.one_at_a_time = threading.Lock()
        self._pace, self._until, self._rests_until = Pace(worker_settings()), 0.0, 0.0
        self._reconciler = Reconciler(ledger(), find_accounts, lambda: self._pace.one_request(self._until))

    def make(self, run: Run) -> Run:
        """Make steps until `SLICE_S` is over, or B2COPY or the rate limit lets none be made."""
        if time.monotonic() < self._rests_until:
            return run
        self._until = time.monotonic() + SLICE_S
        while run.phase != "finished" and time.monotonic() < self._until:
            try:
                after = self._reconciler.step(run)
            except ListUnusable as error:
                log.error("the reconciliation cannot be made: %s", error)
                self._rests_until = time.monotonic() + LONG_REST_S
                break
            except B2CopyError as error:
                log.warning("the reconciliation waits: %s", error)
                self._pace.slow_down(error)
                self._rests_until = time.monotonic() + REST_S
                break
            if after is None:
                break
            run = after
        return run


_slices = PerProcess(_Slices)


@app.task(name="b2copy.ledger.reconcile")
def reconcile() -> None:
    """Make a slice of the reconciliation that is due or under way, once in `B2COPY_RECONCILE_EVERY`.

    Any worker makes the next slice. So a run outlives the worker that began it, and keeps no worker from ending. While
    a slice of this process waits for B2COPY, the next ones end at once, so that they take no more of its slots.
    """
    every_s = crm_settings().reconcile_every
    if every_s is None:
        _warn_of_missing_setting()
        return
    slices = _slices()
    if not slices.one_at_a_time.acquire(blocking=False):
        return
    try:
        _make_slice(slices, round(every_s * 1000))
    finally:
        slices.one_at_a_time.release()


@cache
def _warn_of_missing_setting() -> None:
    """Log it once in a process: beat starts this task every second."""
    log.warning("beat has B2COPY_RECONCILE_EVERY, and this worker does not: it makes no part of the reconciliation")


def _make_slice(slices: _Slices, every_ms: int) -> None:
    if not is_due(ledger(), every_ms) or is_paused(ledger()):
        return
    run = start_run(ledger(), current_user(), every_ms)
    if run.phase == "finished":  # another process was faster
        return
    after = slices.make(run)
    if after.phase == "finished":
        counted = count_differences(ledger(), after)
        say = log.warning if counted else log.info
        say("reconciled with B2COPY: %s differences. b2copy-sync reconcile --last lists them", sum(counted.values()))
