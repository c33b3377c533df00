"""What processes have used, from /proc (Linux)."""

import os
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

_TICKS = os.sysconf("SC_CLK_TCK")


def family(*pids: int) -> list[int]:
    """Return these processes and all their descendants."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (stat := _stat(int(folder.name))):
            children[int(stat[1])].append(int(folder.name))
    found, left = [], list(pids)
    while left:
        found.append(left.pop())
        left += children[found[-1]]
    return found


def cpu_seconds(*pids: int) -> float:
    """Return user and system time of these processes, all their threads, and the children they have waited for."""
    return sum(int(ticks) for pid in pids for ticks in (_stat(pid) or ["0"] * 15)[11:15]) / _TICKS


def peak_rss(*pids: int) -> float:
    """Return the largest resident memory that each of these processes ever had, summed up, MB (10^6 bytes)."""
    return sum(_status(pid).get("VmHWM", 0) for pid in pids) * 1024 / 1e6


def busy_seconds() -> float:
    """Return for how many seconds the cores of this machine have worked, summed up."""
    user, nice, system, _idle, _iowait, *others = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + sum(others[:2])) / _TICKS


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


def _stat(pid: int) -> list[str] | None:
    """Return what follows the name in /proc/PID/stat: state, parent, ...; None if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _status(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.startswith("Vm"))
    return {name: int(value.split()[0]) for name, value in pairs}
