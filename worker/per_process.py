"""Values that each process makes for itself, so that a forked child does not use its parent's connections."""

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


def fork_lock() -> threading.Lock:
    """Return a lock for one thread that uses the ledger: while it is held, a fork of a pool process waits.

    Otherwise the child would have a copy of SQLite's own locks as the thread held them, and could never use the ledger:
    https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_file_across_a_fork_

    Each thread has a lock of its own, so that they do not wait for each other. A fork takes all of them.
    """
    lock = threading.Lock()
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


class PerProcess(Generic[T]):
    """Make one, at first use, in each process: a forked child makes its own and leaves the parent's sockets alone."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._made = make, dict[int, T]()
        self._prepare: list[Callable[[T], None]] = []
        self._locks: dict[int, threading.Lock] = {}  # a fork may copy a lock that a thread of the parent holds

    def __call__(self) -> T:
        pid = os.getpid()
        if pid not in self._made:
            with self._locks.setdefault(pid, threading.Lock()):
                if pid not in self._made:
                    made = self._make()
                    for prepare in self._prepare:
                        prepare(made)
                    self._made[pid] = made
        return self._made[pid]

    @property
    def existing(self) -> T | None:
        """The value that this process has made already, or None. Makes none."""
        return self._made.get(os.getpid())

    def prepare_each(self, prepare: Callable[[T], None]) -> None:
        """Call `prepare` with each value that is made from now on, before anybody uses it; now, if there is one.

        A forked child calls it with its own value, too. A second call with the same function changes nothing.
        """
        if prepare in self._prepare:
            return
        self._prepare.append(prepare)
        if self.existing is not None:
            prepare(self.existing)

    def set_value(self, value: T) -> None:
        """Return this value from now on, in this process."""
        self._made[os.getpid()] = value

    def forget(self) -> None:
        """Make another one at the next use: the settings have changed."""
        self._made.clear()
