"""The bare loop: threads, each with a `requests.Session` of its own. No queue, no ledger, no evidence.

This is the least that so many calls through `requests` can cost: the whole work is one list, and nothing interrupts it.
"""

import os
import threading
from collections import deque
from typing import Any

import requests

from tests.bench.part import serve

URL, HEADERS = os.environ["BENCH_URL"], {"Authorization": f"Bearer {os.environ['BENCH_TOKEN']}"}
THREADS = int(os.environ["BENCH_CONCURRENCY"])


def post(session: Any, number: int, batch: str) -> None:
    """Make one call. `session` is a `requests.Session` or the module `requests`."""
    payload = {"account_login": "123456", "request_id": f"{batch}-{number}"}
    response = session.post(URL, json=payload, headers=HEADERS, timeout=12)
    response.raise_for_status()
    if response.json()["status"] != 2:
        raise ValueError(f"not done: {response.text}")


class Loop:
    def __init__(self) -> None:
        self.sessions = [requests.Session() for _ in range(THREADS)]

    def run(self, batch: str, count: int) -> None:
        """Post `count` operations. Sessions and connections are reused by the next run."""
        left, failed = deque(range(count)), []

        def work(session: requests.Session) -> None:
            try:
                while left:
                    post(session, left.popleft(), batch)
            except IndexError:  # another thread took the last one
                pass
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(session,)) for session in self.sessions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]


if __name__ == "__main__":
    serve(run=Loop().run)
