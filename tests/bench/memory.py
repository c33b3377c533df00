"""The peak memory of a worker."""

from tests.bench.contestants import Ours
from tests.bench.report import Figure, at_most
from tests.bench.usage import peak_rss
from worker.testbed.local_system import Environment

OPERATIONS, AT_ONCE = 10_000, 100
LATENCY = 0.1  # seconds: long enough for all sends to be in flight at once


def memory(environment: Environment, rounds: int) -> list[Figure]:
    """The peak of one worker process after many operations with many sends in flight."""
    environment.sandbox.control.switches(latency={"api": LATENCY})
    ours = Ours(environment, AT_ONCE)
    try:
        run = ours.bulk(OPERATIONS)
        peak = peak_rss(ours.worker.pid)
    finally:
        ours.close()
    return [
        at_most(f"peak RSS, {OPERATIONS:,} operations, {AT_ONCE} in flight ({run.rate:,.0f}/s)", peak, 120, " MB", 0)
    ]
