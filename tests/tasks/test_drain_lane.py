"""What a process that drains lanes sets up for itself."""

import json
import subprocess
import sys

from worker.ledger import open_ledger
from worker.testbed.local_system import Environment

SET_UP = """
import gc
import json
import sys
import weakref
from tasks.drain_lane import pusher

class Garbage:
    pass

gc.disable()  # only what asks for it is collected
garbage = Garbage()
garbage.itself, reference = garbage, weakref.ref(garbage)
del garbage
pusher()
print(json.dumps([sys.getswitchinterval(), gc.get_freeze_count(), reference() is None]))
"""


def test_the_event_loop_waits_neither_for_a_lane_that_writes_nor_for_the_garbage_collector(
    environment: Environment,
) -> None:
    open_ledger(environment.database_url, create=True).close()

    done = subprocess.run(
        [sys.executable, "-c", SET_UP],
        env=environment.variables,
        capture_output=True,
        text=True,
        timeout=55,
        check=True,
    )

    switch_s, frozen, is_collected = json.loads(done.stdout)
    assert switch_s <= 0.001
    assert frozen > 10_000  # objects at which the collector looks no more
    assert is_collected  # what is garbage before that would be kept for ever
