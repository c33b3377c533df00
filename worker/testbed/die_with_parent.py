"""Run a command that does not outlive the process which started it: `python tether.py PARENT_PID COMMAND...`.

A script and not a preexec_fn, which is unsafe in a process with threads; exec keeps the pid. Only Linux offers this
(prctl(2), PR_SET_PDEATHSIG); elsewhere the command simply runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
