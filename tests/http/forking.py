"""A process that uses the session, then forks four that use it too. Ends with how many of them failed."""

import os

from tests.http.calls import post
from worker.http import Http
from worker.session.shared_session import SharedSession
from worker.settings import worker_settings


def main() -> int:
    settings = worker_settings()
    http = Http({"service_admin": SharedSession(settings)}, settings)
    post(http, "/api/admin/x", {"pid": os.getpid()})
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            statuses = {post(http, "/api/admin/x", {"pid": os.getpid()}).status for _ in range(100)}
            os._exit(0 if statuses == {200} else 1)
        children.append(pid)
    return sum(os.waitpid(pid, 0)[1] != 0 for pid in children)


if __name__ == "__main__":
    raise SystemExit(main())
