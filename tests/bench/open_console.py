"""What an open console costs the workers: the rate with three pages that refresh themselves, and without any.

The pages are fetched as a browser does, every three seconds each. The runs alternate, and the rates of two neighbours
are compared, so that other work on the machine slows both.
"""

import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from tests.bench.contestants import Ours, Run
from tests.bench.report import Figure, at_least
from worker.testbed.local_system import Environment
from worker.testbed.ports import free_port, wait_for_port

PAGES = ("/", "/operations?state=open&sort=oldest", "/todo")
EVERY_S = 3.0
COUNT, AT_ONCE = 6_000, 10


def open_console(environment: Environment, rounds: int) -> list[Figure]:
    """Return the rates and their ratio. A run lasts some refreshes of each page."""
    port = free_port()
    command = (sys.executable, "-m", "worker.cli", "console", "--listen", f"127.0.0.1:{port}")
    ours = Ours(environment, AT_ONCE)
    try:
        wait_for_port(port, environment.run("console", *command))
        ours.run(COUNT // 4)  # warms both up
        closed, opened, fetched = list[Run](), list[Run](), 0
        for number in range(rounds):
            for is_open in (number % 2 == 0, number % 2 == 1):
                with _refreshing(f"http://127.0.0.1:{port}", PAGES if is_open else ()) as count:
                    (opened if is_open else closed).append(ours.run(COUNT))
                fetched += count()
    finally:
        ours.close()
    ratios = [one.rate / other.rate for one, other in zip(opened, closed, strict=True)]
    return [
        Figure("no page open", f"{median(run.rate for run in closed):,.0f}/s"),
        Figure("three pages open", f"{median(run.rate for run in opened):,.0f}/s, {fetched} pages fetched"),
        at_least("open : not open", median(ratios), 0.98),
        Figure("open : not open, lowest and highest round", f"{min(ratios):.2f}x to {max(ratios):.2f}x"),
    ]


@contextmanager
def _refreshing(address: str, pages: tuple[str, ...]) -> Iterator[Callable[[], int]]:
    """Fetch each page every three seconds, in a thread of its own. Yields a function that counts the answers."""
    ended, answered = threading.Event(), list[str]()

    def refresh(page: str) -> None:
        while not ended.is_set():
            with urllib.request.urlopen(address + page, timeout=30) as answer:
                answer.read()
            answered.append(page)
            ended.wait(EVERY_S)

    threads = [threading.Thread(target=refresh, args=(page,), daemon=True) for page in pages]
    for thread in threads:
        thread.start()
    try:
        yield lambda: len(answered)
    finally:
        ended.set()
        for thread in threads:
            thread.join(30)
