"""Run a command as another user, until its parent process dies: `python unprivileged.py UID COMMAND...`.

PostgreSQL refuses to run as root. A change of the user clears PR_SET_PDEATHSIG (prctl(2)), so it is set here again.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(user: int, command: list[str]) -> None:
    parent = os.getppid()
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
