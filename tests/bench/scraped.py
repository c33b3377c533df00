"""The price of a worker's metrics: the same runs with a scrape every second, and by a worker that serves no metrics."""

import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from tests.bench.contestants import Ours, Run
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
                url = f"http://127.0.0.1:{port}/metrics" if is_scraped else None
                measure(results, number, partial(ours.run, COUNT), url)


def measure(results: Results, number: int, run: Callable[[], Run], url: str | None) -> None:
    """Add one run that is scraped at `url`, or not at all. With too few scrapes it has failed, and has no price."""
    with _scraping(url) as (sizes, errors):
        done = run()
    if url and len(sizes) < done.seconds:
        why = f": {errors[-1]}" if errors else ""
        results.add("failed", who="scrapes", error=f"{len(sizes)} in a run of {done.seconds:.1f} s{why}")
        return
    results.add("metrics", round=number, scraped=bool(url), rate=done.rate, cpu_ms=done.cpu_ms, scrapes=len(sizes))


@contextmanager
def _scraping(url: str | None) -> Iterator[tuple[list[int], list[OSError]]]:
    """Fetch `url` every second, in a thread of its own. Yields what each answer holds, in bytes, and the errors."""
    ended, sizes, errors = threading.Event(), list[int](), list[OSError]()

    def scrape() -> None:
        at = time.monotonic()
        while url and not ended.is_set():
            try:
                with urllib.request.urlopen(url, timeout=10) as answer:
                    sizes.append(len(answer.read()))
            except OSError as error:
                errors.append(error)
            at += SCRAPE_EVERY_S
            ended.wait(max(0.0, at - time.monotonic()))

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield sizes, errors
    finally:
        ended.set()
        thread.join(10)
