"""Who runs this process, for the audit."""

import getpass
import os
import socket
from functools import cache


@cache
def current_user() -> str:
    """Return who runs this process: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's numeric user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
