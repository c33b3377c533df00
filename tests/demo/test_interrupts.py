"""Signals that reach the demo at an awkward moment."""

import subprocess
import sys

import pytest

# The signal handler runs inside the weakref callback, where Python drops what it raises.
DROPPED = """
import os, signal, weakref
from worker.demo.interrupts import Interrupts

class Thing:
    pass

def interrupt(_):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000):
        pass

interrupts = Interrupts()
with interrupts.armed():
    thing = Thing()
    reference = weakref.ref(thing, interrupt)
    del thing
    print("dropped", flush=True)
    {then}
    print("the end", flush=True)
"""


@pytest.mark.parametrize(("then", "printed"), [("interrupts.exit_if_signalled()", 1), ("pass", 2)])
def test_a_signal_whose_exception_python_drops_ends_the_demo_all_the_same(then: str, printed: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", DROPPED.format(then=then)], capture_output=True, text=True, timeout=30, check=False
    )

    assert "SystemExit: 130" in ran.stderr
    assert ran.returncode == 130
    assert len(ran.stdout.splitlines()) == printed
