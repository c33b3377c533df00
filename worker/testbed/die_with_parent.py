"""Run a command that ends when its parent process dies: `python die_with_parent.py PARENT_PID COMMAND...`.

It is a script because a preexec_fn is unsafe in a process with threads; exec keeps the pid. Only Linux offers this
(prctl(2), PR_SET_PDEATHSIG); on other systems the command runs without it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before prctl was called
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
