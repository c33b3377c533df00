"""What a process has used, from /proc (Linux)."""

import os
import time
from pathlib import Path
from statistics import median

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(*pids: int) -> float:
    """Return user and system time of these processes, all their threads, and the children they have waited for."""
    return sum(_ticks(pid) for pid in pids) / _TICKS


def peak_rss(pid: int) -> float:
    """Return the largest resident memory that a process ever had, MB (10^6 bytes)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"/proc/{pid}/status has no VmHWM")


def fsync_ms(folder: Path) -> float:
    """Return the median time in which this disk makes 4 kB durable. Every commit of the ledger waits for that."""
    took = []
    with (folder / "fsync").open("wb") as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - began)
    return median(took) * 1000


def _ticks(pid: int) -> int:
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(after_name[at]) for at in (11, 12, 13, 14))  # utime, stime, cutime, cstime
