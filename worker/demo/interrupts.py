"""Ctrl-C and SIGTERM for a command that has processes and a folder to clear away."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """A signal ends the command, but never while what must be cleared away is half built or half gone."""

    def __init__(self) -> None:
        self.number = 0  # of the first signal that came
        self._armed = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._came)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Between its ends the first signal raises SystemExit with a shell's code for it, 130 or 143."""
        try:
            self._armed = True
            if self.number:
                self._end()
            yield
        finally:
            self._armed = False

    def _came(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
        if self._armed:
            self._end()

    def _end(self) -> None:
        self._armed = False
        sys.exit(128 + self.number)
