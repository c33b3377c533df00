"""The demo's course: start the environment, play the CRM, watch until all is final, judge."""

import os
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from worker.demo.interrupts import Interrupts
from worker.demo.report import Report, judge
from worker.demo.rows import Withdrawal, rules
from worker.demo.view import Glance, View
from worker.ledger import Ledger, find_many
from worker.operation import FINAL
from worker.testbed.environment import Environment, wait_for_worker

TOKEN_LIFE = 5  # seconds: short enough to see beat renew ahead of expiry
GIVE_UP = 30.0  # seconds beyond the longest pending row
EVERY = 0.2  # seconds between two looks
# In production polls start at 2 s and widen to 60 s; a demo is looked at.
QUICK_POLLS = {"B2COPY_FEES_POLL_FIRST": "1", "B2COPY_FEES_POLL_MAX": "1"}


def play(rows: list[Withdrawal], view: View) -> Report:
    """Play the rows and return what came of it. Raises ProcessFailed, and SystemExit if a signal ended it."""
    interrupts = Interrupts()
    view.opening(len(rows))
    try:
        environment = Environment(access_lifetime=TOKEN_LIFE, logins=rules(rows))
        environment.settings |= QUICK_POLLS
        with environment, interrupts.armed():
            return _judged(rows, environment, view)
    finally:
        if interrupts.number:
            view.say("stopped: every process has ended, nothing is left behind")


def _judged(rows: list[Withdrawal], environment: Environment, view: View) -> Report:
    """Whatever goes wrong, its logs stay."""
    try:
        report = _run(rows, environment, view)
    except Exception:
        view.say(f"The logs are kept in {_kept(environment)}")
        raise
    view.report(report)
    if not report.passed:
        view.say(f"The logs and the ledger are kept in {_kept(environment)}")
    return report


def _run(rows: list[Withdrawal], environment: Environment, view: View) -> Report:
    view.started(
        "broker", f"redis://127.0.0.1:{environment.broker.port}, wakes the worker and holds the shared session"
    )
    view.started("B2COPY", f"{environment.sandbox.url}, a local sandbox; its access tokens live {TOKEN_LIFE} s")
    worker, _ = environment.worker(), environment.beat()
    # This process plays the CRM, so it has a CRM's settings.
    os.environ.clear()
    os.environ.update(environment.variables)
    from tasks import enqueue
    from worker.app import ledger

    wait_for_worker(worker)
    view.started("worker", "celery -A worker.app worker, starts fee runs, asks until all is final")
    view.started("beat", "celery -A worker.app beat, has the session renewed ahead of expiry")
    began = time.monotonic()
    enqueue.many("fees.process", [row.fields for row in rows], by="demo")
    took = time.monotonic() - began
    view.started("CRM", f"enqueued {len(rows)} withdrawals in {took:.2f} s: the ledger has them")
    _watch(ledger(), rows, environment, view, began)
    restarts = sum(process.started - 1 for process in environment.processes)
    return judge(ledger(), rows, environment.sandbox.control.counters(), restarts)


def _watch(ledger: Ledger, rows: list[Withdrawal], environment: Environment, view: View, began: float) -> None:
    """Return when all is final and a renewal was seen, or when time is up."""
    keys = [row.key for row in rows]
    until = began + max(row.pending_seconds for row in rows) + GIVE_UP
    with view.progress():
        while True:
            states = Counter(str(operation.state) for operation in find_many(ledger, keys).values())
            counters = environment.sandbox.control.counters()
            now = time.monotonic()
            view.show(_glance(now - began, states, counters))
            final = sum(states[state] for state in FINAL) == len(rows)
            if (final and counters["refreshes"]) or now > until:
                return
            time.sleep(EVERY)


def _glance(seconds: float, states: Counter[str], counters: dict[str, Any]) -> Glance:
    return Glance(
        seconds=seconds,
        states=states,
        logins=counters["logins"],
        refreshes=counters["refreshes"],
        unauthorized=counters["unauthorized"],
        calls=counters["calls"].get("processext", 0),
    )


def _kept(environment: Environment) -> Path:
    """End the processes and copy logs and ledger, which hold neither keys nor tokens, to a folder that stays."""
    folder = Path(tempfile.mkdtemp(prefix="b2copy-demo-"))
    for process in environment.processes:
        process.terminate()
    for process in environment.processes:
        process.stop()
    for path in [*environment.folder.glob("*.log"), *environment.folder.glob("ledger.sqlite*")]:
        shutil.copy(path, folder)
    for path in environment.folder.glob("*/log"):
        shutil.copy(path, folder / f"{path.parent.name}.log")
    return folder
