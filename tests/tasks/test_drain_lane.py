"""What a process that drains lanes sets up for itself."""

import subprocess
import sys

from worker.ledger import open_ledger
from worker.testbed.local_system import Environment

SET_UP = """
import sys
from tasks.drain_lane import pusher
pusher()
print(sys.getswitchinterval())
"""


def test_the_event_loop_need_not_wait_while_a_lane_writes_its_results(environment: Environment) -> None:
    open_ledger(environment.database_url, create=True).close()

    done = subprocess.run(
        [sys.executable, "-c", SET_UP],
        env=environment.variables,
        capture_output=True,
        text=True,
        timeout=55,
        check=True,
    )

    assert float(done.stdout) <= 0.001
