"""A process that does part of a contestant's work: it reads commands from stdin and answers on stdout, in JSON lines.

It is started and warm before the clock starts, because the work is compared and not the imports. It ends with its
stdin, and so with the process that started it. It imports nothing of the project, because rivals have environments of
their own.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Action = Callable[..., Mapping[str, Any] | None]


def serve(**actions: Action) -> None:
    """Run the actions that stdin names, until stdin ends."""
    for line in sys.stdin:
        action, how = json.loads(line)
        cpu, began = time.process_time(), time.monotonic()
        result = actions[action](**how) or {}
        answer = {
            "began": began,
            "ended": time.monotonic(),
            "cpu": time.process_time() - cpu,
            "peak_mb": _peak_mb(),
        }
        print(json.dumps(answer | dict(result)), flush=True)


def _peak_mb() -> float:
    """Return the peak memory of this process. `ru_maxrss` would begin with that of the process that forked it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def paced(batch: str, count: int, per_second: float, calls: list[tuple[str, float, float]]) -> Iterator[str]:
    """Yield the ids of a batch, as fast as possible or at a rate. Adds (id, begin, seconds) of each call to `calls`."""
    begin = time.monotonic()
    for number in range(count):
        if per_second:
            time.sleep(max(0.0, begin + number / per_second - time.monotonic()))
        began = time.monotonic()
        yield f"{batch}-{number}"
        if per_second:
            calls.append((f"{batch}-{number}", began, time.monotonic() - began))
