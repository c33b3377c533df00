"""The file that a working worker touches, and the check of its age for a liveness probe.

A loop that does not begin another pass is stalled. Then nobody touches the file, and if that lasts, the process ends
itself: see `metrics_and_heartbeat_steps`.

A health probe runs every few seconds on a small machine, so this file imports the standard library alone. It asks
neither Redis nor the database: an outage of one of them must not restart every worker.
"""

import os
import sys
import time

VARIABLE = "B2COPY_HEARTBEAT_FILE"
TOUCH_EVERY_S = 2.0  # seconds
OLDEST_S = 30.0  # seconds since the last touch after which a worker counts as stalled

STALLED_EXIT = 70  # the exit code of a process that has ended itself because a loop was stalled (EX_SOFTWARE)

_progress: dict[str, float] = {}  # running loop -> when its last pass began, monotonic seconds
_in_use: dict[int, float] = {}  # connection to the ledger -> since when a thread has used it, monotonic seconds
os.register_at_fork(after_in_child=_progress.clear)  # the parent's loops do not run in a forked child
os.register_at_fork(after_in_child=_in_use.clear)


def note_progress(loop: str) -> None:
    """Note that a loop has just begun another pass."""
    _progress[loop] = time.monotonic()


def note_end(loop: str) -> None:
    """Note that a loop has ended, so that it does not count as stalled."""
    _progress.pop(loop, None)


def note_connection(number: int) -> None:
    """Note that a thread begins to use a connection to the ledger. `number` identifies it until `note_return`."""
    _in_use[number] = time.monotonic()


def note_return(number: int) -> None:
    """Note that a connection to the ledger was returned, so that its transaction has ended."""
    _in_use.pop(number, None)


def stalled_loops(longest_s: float) -> list[str]:
    """Return the running loops that have not begun a pass for `longest_s` seconds.

    Empty if a connection has been in use for half as long: the ledger does not answer, not even to BEGIN, or somebody
    holds a lock. Loops may wait for that, and a restart would not help, but would lose results that are not written.
    """
    now = time.monotonic()
    if any(now - at > longest_s / 2 for at in list(_in_use.values())):
        return []
    return sorted(loop for loop, at in list(_progress.items()) if now - at > longest_s)


def touch(path: str | os.PathLike[str]) -> None:
    """Set the file's time to now. Create it, for its owner alone. Raises `OSError`, also for a symbolic link."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.utime(file)
    finally:
        os.close(file)


def problem(path: str, oldest_s: float = OLDEST_S) -> str:
    """Return why the worker that touches `path` counts as dead; empty if it is alive."""
    if not path:
        return f"{VARIABLE} is not set: name the file that the worker touches, for the worker and for this command"
    try:
        age_s = time.time() - os.stat(path).st_mtime
    except OSError as error:
        return f"{path}: {error.strerror}: no worker has touched it. Does one run, with this {VARIABLE}?"
    if age_s < -oldest_s:  # nobody has touched it since the clock was set back
        return f"{path}: dated {-age_s:.0f} s in the future: the worker is frozen or has ended"
    if age_s > oldest_s:
        return f"{path}: last touched {age_s:.0f} s ago, more than {oldest_s:g} s: the worker is frozen or has ended"
    return ""


def check() -> int:
    """Run `b2copy-sync health --live` and return its exit code."""
    found = problem(os.environ.get(VARIABLE, ""))
    if found:
        print(found, file=sys.stderr)  # noqa: T201
    return 1 if found else 0
