"""A process that uses the session, then forks four that use it too. Ends with how many of them failed."""

import os

from worker.http.client import Http
from worker.session.shared import SharedSession
from worker.settings import worker_settings


def main() -> int:
    settings = worker_settings()
    http = Http(SharedSession(settings), settings)
    http.post("/api/admin/x", {"pid": os.getpid()}, repeatable=False)
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            statuses = {http.post("/api/admin/x", {"pid": os.getpid()}, repeatable=False).status for _ in range(100)}
            os._exit(0 if statuses == {200} else 1)
        children.append(pid)
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in children)


if __name__ == "__main__":
    raise SystemExit(main())
