"""What a worker uses, and how to give it much to do."""

import json
import os
import sys
import time
from pathlib import Path

from worker.testbed.environment import Stage
from worker.testbed.processes import Process

_TICK = os.sysconf("SC_CLK_TCK")


def ask(stage: Stage, login: str, count: int) -> None:
    """Enqueue fee runs of a login, in a process of its own."""
    code = "import sys, json; from tasks import enqueue; enqueue.many('fees.process', json.load(open(sys.argv[1])))"
    rows = stage.folder / f"{login}-{time.monotonic_ns()}.json"
    rows.write_text(json.dumps([{"account_login": login, "request_id": f"{rows.stem}-{n}"} for n in range(count)]))
    process = stage.run(rows.stem, sys.executable, "-c", code, str(rows), restarts=False)
    if process.wait(60.0) != 0:
        raise AssertionError(f"not enqueued:\n{process.tail()}")


def cpu_seconds(process: Process) -> float:
    """User and system time so far (proc(5))."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def rss(process: Process) -> float:
    """Resident memory, MB."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20
