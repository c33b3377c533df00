"""What a worker uses, and how to enqueue much work for it."""

import os
import time
from pathlib import Path

from tests.faults.ledger.system import System
from worker.testbed.processes import Process

_TICK = os.sysconf("SC_CLK_TCK")


def enqueue_fees(system: System, login: str, count: int) -> None:
    """Enqueue fee runs of a login, in a process of its own."""
    batch = time.monotonic_ns()
    system.request(*({"account_login": login, "request_id": f"{login}-{batch}-{n}"} for n in range(count)))


def cpu_seconds(process: Process) -> float:
    """Return user and system time so far (proc(5))."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def rss(process: Process) -> float:
    """Return the resident memory, MB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20
