"""Threads, each with a `requests.Session`. No queue and nothing kept: the least that calls through `requests` cost."""

import threading
from collections import deque

from tests.bench.rivals.post import AT_ONCE, TRIES, pause, post
from tests.bench.serve import serve


def run(batch: str, count: int) -> None:
    left = deque(f"{batch}-{number}" for number in range(count))
    threads = [threading.Thread(target=_work, args=(left,)) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _work(left: deque[str]) -> None:
    while left:
        try:
            name = left.popleft()
        except IndexError:  # another thread took the last one
            return
        for _ in range(TRIES):
            try:
                post(name)
                break
            except Exception:
                pause()


if __name__ == "__main__":
    serve(run=run)
