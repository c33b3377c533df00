"""A round in which the peer refuses 5 % of the requests with a 503 and loses 2 % of its answers.

`again` is how often the peer carried out an id that it had carried out before. B2COPY knows the ids of fee runs, so
asking again is right, but another API would do it twice. `never` counts the operations that were never carried out.
"""

import time
from collections.abc import Callable

from tests.bench.contestants import Rival
from tests.bench.peer import Peer
from tests.bench.races import Field, tolerated
from tests.bench.results import Results
from worker.testbed.processes import ProcessFailed

OPERATIONS, REFUSE, LOSE = 1000, 5, 2  # operations, percent, percent
QUIET_S = 6.0  # seconds without a further id after which a contestant has given up


def faults(contestants: Field, results: Results) -> None:
    peer = contestants.peer
    peer.set(refuse=REFUSE, lose=LOSE)
    try:
        for one in contestants.ours:
            for what, run in (("may be asked again", one.run), ("must not be repeated", one.once)):
                failed, succeeded = one.failed(), one.succeeded()
                peer.reset()
                run(OPERATIONS)
                _add(results, peer, f"{one.name}, {what}", one.succeeded() - succeeded, one.failed() - failed)
        for rival in contestants.rivals:
            peer.reset()
            with tolerated(results, rival.name):
                if isinstance(rival, Rival):
                    rival.enqueue(OPERATIONS)
                    _wait_until_quiet(peer.ids)
                else:
                    rival.run(OPERATIONS)
                _add(results, peer, rival.name, None, None)
    finally:
        peer.set()


def _wait_until_quiet(ids: Callable[[], int]) -> None:
    seen, since = ids(), time.monotonic()
    until = since + 60
    while seen < OPERATIONS and time.monotonic() - since < QUIET_S:
        time.sleep(0.05)
        if (now := ids()) != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() > until:
            raise ProcessFailed("the fault round did not end")
    time.sleep(1.0)  # for repetitions of answers that were lost


def _add(results: Results, peer: Peer, who: str, succeeded: int | None, failed: int | None) -> None:
    effects = peer.effects()
    again = sum(effect.times - 1 for effect in effects.values())
    results.add("faults", who=who, never=OPERATIONS - len(effects), again=again, succeeded=succeeded, failed=failed)
