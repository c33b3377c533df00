"""Many processes that call B2COPY through the shared session, several times a second, and write down each call.

One process imports everything and forks the others, as a prefork worker does; that is also the fastest start.
"""

import json
import os
import random
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from worker.errors import B2CopyError
from worker.http import Http, event_loop
from worker.operation import OnUnknown
from worker.session.shared_session import SharedSession
from worker.session.timings import Timings
from worker.session.tokens import Token
from worker.settings import worker_settings

PATH = "/api/admin/fees/v2/fee/feeservice/processext"


class RecordingSession(SharedSession):
    """A shared session that remembers the token with which the last call was made."""

    token: Token | None = None

    def cached(self) -> Token | None:
        self.token = super().cached()
        return self.token

    def current(self, wait: float = 3.0) -> Token:
        self.token = super().current(wait)
        return self.token

    def rejected(self, token: Token, wait: float = 3.0, *, is_doubtful: bool = False) -> Token:
        self.token = super().rejected(token, wait, is_doubtful=is_doubtful)
        return self.token


def keep_calling(number: int, task: dict[str, Any], session: RecordingSession, http: Http) -> None:
    """Call every `pause` seconds until `ends`. Each call is one line: started, ended, result, generation, token."""
    random.seed(number)
    with (Path(task["folder"]) / f"{number}.calls").open("w", buffering=1) as calls:
        due = time.monotonic() + random.random() * task["pause"]
        while due < task["ends"]:
            time.sleep(max(0.0, due - time.monotonic()))
            due = max(due + task["pause"], time.monotonic())
            started = time.monotonic()
            session.token = None
            payload = {"account_login": "123456", "request_id": f"{number}-{started}"}
            try:
                answer = event_loop().run(http.request("POST", PATH, json=payload, on_unknown=OnUnknown.START_OR_GET))
                result = str(answer.status)
            except B2CopyError as error:
                result = type(error).__name__
            token = session.token
            generation, fingerprint = (token.generation, token.fingerprint) if token else (0, "")
            calls.write(json.dumps([started, time.monotonic(), result, generation, fingerprint]) + "\n")


def _wall_clock(ahead_s: float) -> float:
    return time.time() + ahead_s


def main(task: dict[str, Any]) -> None:
    settings = worker_settings()
    timings = Timings(**task["timings"])
    children = []
    for number in range(task["count"]):
        ahead_s = task["clocks"][number % len(task["clocks"])]
        session = RecordingSession(settings, timings, wall=partial(_wall_clock, ahead_s))
        pid = os.fork()
        if pid == 0:
            try:
                keep_calling(number, task, session, Http({"service_admin": session}, settings))
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
