"""Ctrl-C and SIGTERM for a command that must stop its processes and remove its folder."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """A signal ends the command, but only while `armed`: never during start or clean-up."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal that arrived
        self._armed = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._handle)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Inside this context the first signal raises SystemExit with a shell's exit code for it, e.g. 130 or 143."""
        try:
            self._armed = True
            self.exit_if_signalled()
            yield
            self.exit_if_signalled()
        finally:
            self._armed = False

    def exit_if_signalled(self) -> None:
        """Raise SystemExit if a signal has arrived.

        Python drops an exception that a signal handler raises while a destructor or a weakref callback runs. So a loop
        that waits calls this, too.
        """
        if self.number:
            self._armed = False
            sys.exit(128 + self.number)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
        if self._armed:
            self.exit_if_signalled()
