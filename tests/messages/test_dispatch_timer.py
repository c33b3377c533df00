"""Every worker dispatches from a timer of its own, as long as it runs."""

import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support import until
from worker.ledger.due import DISPATCH_EVERY_S
from worker.messages import dispatch_timer
from worker.messages.dispatch_timer import DispatchTimer

THREAD = "b2copy-dispatch"


class Dispatch:
    """In the place of the task: notes when it was called, and does what the test sets."""

    def __init__(self) -> None:
        self.called_at: list[float] = []
        self.does: Callable[[], bool] = lambda: True

    def __call__(self) -> bool:
        self.called_at.append(time.monotonic())
        return self.does()

    def wait_for_calls(self, more: int) -> None:
        wanted = len(self.called_at) + more
        until(lambda: len(self.called_at) >= wanted)


@pytest.fixture
def dispatch() -> Dispatch:
    return Dispatch()


@pytest.fixture
def timer(dispatch: Dispatch) -> Iterator[threading.Thread]:
    """A timer that has started. Its thread ends within a moment once it is stopped."""
    worker: Any = SimpleNamespace(app=SimpleNamespace(tasks={"b2copy.ledger.dispatch": dispatch}))
    made, others = DispatchTimer(worker), set(threading.enumerate())
    made.start(worker)
    [thread] = [one for one in threading.enumerate() if one not in others and one.name == THREAD]
    yield thread
    made.stop(worker)
    thread.join(10)
    assert not thread.is_alive()


def test_it_dispatches_at_its_pace_and_holds_up_no_worker_that_ends(
    timer: threading.Thread, dispatch: Dispatch
) -> None:
    began = time.monotonic()

    dispatch.wait_for_calls(3)

    assert dispatch.called_at[2] - began >= 2.5 * DISPATCH_EVERY_S
    assert timer.daemon


def test_no_pool_process_is_forked_while_it_dispatches(timer: threading.Thread, dispatch: Dispatch) -> None:
    held: list[bool] = []

    def note() -> bool:
        held.append(dispatch_timer._no_fork.locked())
        return True

    dispatch.does = note
    dispatch.wait_for_calls(2)
    until(lambda: held)

    assert set(held) == {True}
    until(lambda: not dispatch_timer._no_fork.locked())


def test_it_continues_after_a_dispatch_that_fails_and_says_so_once(
    timer: threading.Thread, dispatch: Dispatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> bool:
        raise ConnectionError("the ledger is gone")

    dispatch.does = fail
    dispatch.wait_for_calls(3)

    assert caplog.text.count("dispatch failed, the next one tries again: ConnectionError") == 1
