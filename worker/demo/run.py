"""Run the demo: start the environment, enqueue as a CRM does, watch until all operations are final, compare.

`worker.demo.run_book` runs the other story in the same environment.
"""

import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from worker.demo.endings import Report, compare
from worker.demo.interrupts import Interrupts
from worker.demo.read_withdrawals import Withdrawal, rules
from worker.demo.view import Progress, View
from worker.ledger import Ledger, find_many
from worker.operation import FINAL
from worker.testbed.local_system import Environment, wait_for_worker
from worker.testbed.ports import free_port, wait_for_port

TOKEN_LIFETIME_S = 5  # seconds; short enough to see beat renew the session before it expires
TIME_LIMIT_S = 30.0  # seconds, added to the longest `pending_seconds`
INTERVAL_S = 0.2  # seconds between two queries
# In production polls start at 2 s and slow down to 60 s. Somebody watches the demo, so it polls every second.
QUICK_POLLS = {"B2COPY_FEES_POLL_FIRST": "1", "B2COPY_FEES_POLL_MAX": "1"}


def run(rows: list[Withdrawal], view: View, console: bool = False) -> Report:
    """Run the rows and return the report. Raises ProcessFailed, and SystemExit if a signal ended the demo.

    `console`: open the operations console, and keep everything running after the report until Ctrl-C.
    """
    view.opening(len(rows))
    environment = Environment(access_lifetime=TOKEN_LIFETIME_S, logins=rules(rows))
    environment.settings |= QUICK_POLLS
    return run_and_report(
        environment, view, lambda interrupts: _run(rows, environment, view, interrupts, console), view.report, console
    )


class _Report(Protocol):
    @property
    def passed(self) -> bool: ...


AnyReport = TypeVar("AnyReport", bound=_Report)


def run_and_report(
    environment: Environment,
    view: View,
    run_story: Callable[[Interrupts], AnyReport],
    show: Callable[[AnyReport], None],
    console: bool,
) -> AnyReport:
    """Run a story in the environment and show its report. Save the logs if anything went wrong."""
    interrupts = Interrupts()
    try:
        with environment, interrupts.armed():
            try:
                report = run_story(interrupts)
            except Exception:
                view.print(f"The logs are saved in {save_logs(environment)}")
                raise
            show(report)
            if not report.passed:
                view.print(f"The logs and the ledger are saved in {save_logs(environment)}")
            if console:
                _keep_running(environment, view, interrupts)
            return report
    finally:
        if interrupts.number:
            view.print("stopped: every process has ended, nothing is left behind")


def open_console(environment: Environment, view: View) -> None:
    port = free_port()
    command = [sys.executable, "-m", "worker.cli", "console", "--listen", f"127.0.0.1:{port}", "--yes-i-am-alone"]
    wait_for_port(port, environment.run("console", *command))
    view.started("console", f"http://127.0.0.1:{port}, shows every operation and lets you act")


def _keep_running(environment: Environment, view: View, interrupts: Interrupts) -> None:
    """Leave all processes running until a signal comes or the console ends."""
    console = next(process for process in environment.processes if process.name == "console")
    view.print("\nThe console stays open: look around, and end everything with Ctrl-C.")
    while console.running:
        interrupts.exit_if_signalled()
        time.sleep(INTERVAL_S)


def _run(rows: list[Withdrawal], environment: Environment, view: View, interrupts: Interrupts, console: bool) -> Report:
    start(environment, view, "starts fee runs, polls until all are final", console)
    from tasks import enqueue
    from worker.instances import ledger

    started = time.monotonic()
    enqueue.many("fees.process", [row.fields for row in rows], by="demo")
    took = time.monotonic() - started
    view.started("CRM", f"enqueued {len(rows)} withdrawals in {took:.2f} s: the ledger has them")
    _watch(ledger(), rows, environment, view, interrupts, started)
    restarts = sum(process.started - 1 for process in environment.processes)
    return compare(ledger(), rows, environment.sandbox.control.counters(), restarts)


def start(environment: Environment, view: View, does: str, console: bool) -> None:
    """Start the processes and say what each is for; `does`: what the worker does. Makes this process the CRM."""
    broker, sandbox = environment.broker, environment.sandbox
    view.started("broker", f"redis://127.0.0.1:{broker.port}, wakes the worker and holds the shared session")
    view.started("B2COPY", f"{sandbox.url}, a local sandbox; its access tokens live {TOKEN_LIFETIME_S} s")
    worker, _ = environment.worker(), environment.beat()
    # This process acts as the CRM, so it has the settings of a CRM. They must be set before `tasks` is imported.
    os.environ.clear()
    os.environ.update(environment.variables)
    wait_for_worker(worker)
    view.started("worker", f"b2copy-sync worker, {does}")
    view.started("beat", "b2copy-sync beat, has the session renewed before it expires")
    if console:
        open_console(environment, view)


def _watch(
    ledger: Ledger,
    rows: list[Withdrawal],
    environment: Environment,
    view: View,
    interrupts: Interrupts,
    started: float,
) -> None:
    """Return when every operation is final and the session was renewed, or at the time limit."""
    keys = [row.key for row in rows]
    deadline = started + max(row.pending_seconds for row in rows) + TIME_LIMIT_S
    with view.progress():
        while True:
            interrupts.exit_if_signalled()
            states = Counter(str(operation.state) for operation in find_many(ledger, keys).values())
            counters = environment.sandbox.control.counters()
            now = time.monotonic()
            view.show(_progress(now - started, states, counters))
            all_final = sum(states[state] for state in FINAL) == len(rows)
            if (all_final and counters["refreshes"]) or now > deadline:
                return
            time.sleep(INTERVAL_S)


def _progress(seconds: float, states: Counter[str], counters: dict[str, Any]) -> Progress:
    return Progress(
        seconds=seconds,
        states=states,
        logins=counters["logins"],
        refreshes=counters["refreshes"],
        unauthorized=counters["unauthorized"],
        calls=counters["calls"].get("processext", 0),
    )


def save_logs(environment: Environment) -> Path:
    """Stop the processes and copy logs and ledger to a folder that stays. Neither holds keys or tokens."""
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
