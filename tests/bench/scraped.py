"""The price of a worker's metrics: the same runs with a scrape every second, and by a worker that serves no metrics."""

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench.contestants import Ours
from tests.bench.peer import Peer
from tests.bench.races import environment
from tests.bench.results import Results
from worker.testbed.ports import free_port

AT_ONCE, COUNT = 10, 12_000
SCRAPE_EVERY_S = 1.0  # seconds; Prometheus scrapes every 15 s or more


def scraped(folder: Path, results: Results, rounds: int) -> None:
    port = free_port()
    with ExitStack() as stack:
        peer = stack.enter_context(Peer(folder))
        contestants = {}
        for is_scraped in (False, True):
            made = stack.enter_context(environment(peer.url))
            if is_scraped:
                made.settings["B2COPY_METRICS_LISTEN"] = f"127.0.0.1:{port}"
            contestants[is_scraped] = ours = Ours(made, AT_ONCE, beat=False)
            stack.callback(ours.close)
            ours.run(COUNT // 4)  # warms it up
        for number in range(rounds):
            for is_scraped, ours in sorted(contestants.items(), reverse=bool(number % 2)):
                with _scraping(f"http://127.0.0.1:{port}/metrics" if is_scraped else None) as sizes:
                    run = ours.run(COUNT)
                results.add(
                    "metrics", round=number, scraped=is_scraped, rate=run.rate, cpu_ms=run.cpu_ms, scrapes=len(sizes)
                )


@contextmanager
def _scraping(url: str | None) -> Iterator[list[int]]:
    """Fetch `url` every second, in a thread of its own. Yields the list of what each answer holds, in bytes."""
    ended, sizes = threading.Event(), list[int]()

    def scrape() -> None:
        while url and not ended.is_set():
            with urllib.request.urlopen(url, timeout=10) as answer:
                sizes.append(len(answer.read()))
            ended.wait(SCRAPE_EVERY_S)

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        ended.set()
        thread.join(10)
