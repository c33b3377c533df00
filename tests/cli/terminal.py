"""Run `b2copy-sync` in a terminal of a given width."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping

ROWS = 30
WATCHED_S = 8.0  # seconds after which a command that runs until Ctrl-C is ended


def shown(arguments: list[str], columns: int, environment: Mapping[str, str]) -> str:
    """Return what is on the screen when the command ends, with the escape sequences of colours."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
    command = [sys.executable, "-m", "worker.cli", *arguments]
    variables = {name: value for name, value in environment.items() if name not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables | {"TERM": "xterm-256color"}
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    output = b""
    ends = time.monotonic() + WATCHED_S
    while "--watch" not in arguments or time.monotonic() < ends:
        ended = process.poll() is not None
        try:
            output += os.read(ours, 65536)
        except OSError:  # there is nothing now, or the command has closed the terminal
            if ended:
                break
            time.sleep(0.02)
    process.terminate()
    process.wait()
    os.close(ours)
    last = output.decode(errors="replace").rpartition("\x1b[H")[2]  # what was drawn since the cursor was at the top
    return re.sub(r"\x1b\[[?0-9;]*[A-Zhl]", "", last).replace("\r", "")


def without_colours(screen: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", screen)
