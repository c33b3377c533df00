"""Who asks, for the evidence."""

import getpass
import os
import socket
from functools import cache


@cache
def me() -> str:
    """Return who runs this process: `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's numeric user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"
