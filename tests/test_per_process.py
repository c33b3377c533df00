"""A value that each process makes for itself."""

import os
import threading
import time

from tests.support import until
from worker.per_process import PerProcess, fork_lock


def test_a_fork_while_a_thread_makes_the_value_leaves_the_child_free_to_make_its_own() -> None:
    being_made, may_end = threading.Event(), threading.Event()

    def make() -> int:
        if threading.current_thread() is not threading.main_thread():
            being_made.set()
            may_end.wait(20)
        return os.getpid()

    value = PerProcess(make)
    thread = threading.Thread(target=value)
    thread.start()
    being_made.wait(20)

    child = os.fork()
    if not child:
        threading.Timer(10, lambda: os._exit(2)).start()
        os._exit(0 if value() == os.getpid() else 1)
    may_end.set()
    thread.join(20)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert value() == os.getpid()


def test_a_value_that_two_threads_need_at_once_is_made_once() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        if len(made) == 1:
            other.start()
            other.join(0.3)  # without a lock it makes one of its own, and ends
        return made[-1]

    value = PerProcess(make)
    other = threading.Thread(target=value)

    assert value() == 0
    other.join(20)
    assert made == [0]


def test_a_fork_waits_while_a_thread_uses_the_ledger() -> None:
    no_fork, others = fork_lock(), fork_lock()
    holds, events = threading.Event(), list[str]()

    def use_ledger() -> None:
        with no_fork:
            holds.set()
            until(lambda: forking.is_set() and time.monotonic() > began + 0.1)
            events.append("used")

    forking, began = threading.Event(), time.monotonic()
    thread = threading.Thread(target=use_ledger)
    thread.start()
    holds.wait(20)
    forking.set()

    child = os.fork()
    if not child:
        os._exit(0 if no_fork.acquire(timeout=10) and others.acquire(timeout=10) else 1)
    events.append("forked")
    thread.join(20)

    assert events == ["used", "forked"]
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
