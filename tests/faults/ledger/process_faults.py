"""Faults of our own processes: workers, their pools, beats."""

import os
import signal
from functools import partial

from tests.faults.ledger.system import System
from tests.support import until
from worker.testbed.processes import Process


def worker_killed(system: System, times: int = 3) -> None:
    """SIGKILL one worker after the other, during their calls and while they hold messages."""
    for number in range(times):
        with system.fault():
            system.go_on(1.5)
            with system.ledger_locked():  # so that the worker holds messages which it cannot record
                system.go_on(0.5)
                system.workers[number % len(system.workers)].kill()


def pool_killed(system: System, times: int = 3) -> None:
    """SIGKILL all pool processes, during their calls and while they hold messages."""
    for _ in range(times):
        with system.fault():
            system.go_on(1.5)
            with system.ledger_locked():  # so that the processes hold messages which they cannot record
                system.go_on(0.5)
                for pid in until(system.children):
                    os.kill(pid, signal.SIGKILL)


def beats_stopped(system: System, seconds: float = 5.0) -> None:
    """Every beat ends, and none is started again."""
    with system.fault():
        for beat in system.beats:
            beat.stop()
        system.go_on(seconds)


def workers_terminated(system: System) -> None:
    """SIGTERM to workers with fifty calls in flight: they finish these calls and return the other claims."""
    system.go_on(3.0)
    with system.fault():
        for worker in system.workers:
            worker.send(signal.SIGTERM)
            until(partial(_started_again, worker, worker.started), within=20)
            if worker.returncode:
                raise AssertionError(f"{worker.name} ended with {worker.returncode}:\n{worker.tail()}")


def _started_again(worker: Process, before: int) -> bool:
    return worker.started > before


def worker_frozen(system: System, seconds: float = 15.0) -> None:
    """SIGSTOP a worker for longer than its lease, then let it continue with the claims it holds."""
    with system.fault():
        system.workers[0].send(signal.SIGSTOP)
        system.go_on(seconds)
        system.workers[0].send(signal.SIGCONT)
