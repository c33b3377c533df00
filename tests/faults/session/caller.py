"""Many processes that call B2COPY through the shared session, several times a second, and note each call.

One process imports everything and forks the others: that is how a prefork worker does it, and it is quick.
"""

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from worker.errors import B2CopyError
from worker.http.client import Http
from worker.session.shared import SharedSession
from worker.session.timings import Timings
from worker.session.tokens import Token
from worker.settings import worker_settings

PATH = "/api/admin/fees/v2/fee/feeservice/processext"


class Noting(SharedSession):
    """A shared session that remembers which token a call was made with."""

    token: Token | None = None

    def current(self, wait: float = 3.0) -> Token:
        self.token = super().current(wait)
        return self.token

    def rejected(self, token: Token, wait: float = 3.0) -> Token:
        self.token = super().rejected(token, wait)
        return self.token


def call_on(number: int, task: dict[str, Any], session: Noting, http: Http) -> None:
    """Call until told time is up, every `pause` seconds."""
    random.seed(number)
    with (Path(task["folder"]) / f"{number}.calls").open("w", buffering=1) as notes:
        due = time.monotonic() + random.random() * task["pause"]
        while due < task["ends"]:
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + task["pause"], time.monotonic())
            started = time.monotonic()
            session.token = None
            payload = {"account_login": "123456", "request_id": f"{number}-{started}"}
            try:
                result = str(http.post(PATH, payload, repeatable=True).status)
            except B2CopyError as error:
                result = type(error).__name__
            token = session.token
            generation, mark = (token.generation, token.fingerprint) if token else (0, "")
            notes.write(json.dumps([started, time.monotonic(), result, generation, mark]) + "\n")


def main(task: dict[str, Any]) -> None:
    settings = worker_settings()
    timings = Timings(**task["timings"])
    children = []
    for number in range(task["count"]):
        ahead = task["clocks"][number % len(task["clocks"])]
        session = Noting(settings, timings, wall=lambda ahead=ahead: time.time() + ahead)
        pid = os.fork()
        if pid == 0:
            try:
                call_on(number, task, session, Http(session, settings))
            finally:
                os._exit(0)
        children.append(pid)
    pids = Path(task["folder"]) / "pids"
    pids.with_suffix(".new").write_text(json.dumps(children))
    pids.with_suffix(".new").rename(pids)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
