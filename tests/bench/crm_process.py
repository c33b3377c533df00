"""What ours costs a CRM: to import it, and to use the fixture `b2copy` in the CRM's own tests."""

import re
import subprocess
import sys
from pathlib import Path
from statistics import median

from tests.bench.results import Results, percentile
from worker.testbed.processes import clean_environment

IMPORTS, TESTS = 7, 100  # runs; tests of the suite

_OURS = "import tasks.enqueue"
# What ours is built on: SQLAlchemy with the dialects of both databases, and pydantic for settings and payloads.
_LIBRARIES = """
import sqlalchemy, tenacity
from sqlalchemy.dialects import postgresql, sqlite
from pydantic import BaseModel, TypeAdapter
from pydantic_settings import BaseSettings
"""
_MEASURE = """
import sys, time
began = time.perf_counter()
{imports}
took = time.perf_counter() - began
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(took, int(peak) * 1024 / 1e6, len(sys.modules))
"""
_SUITE = """
import pytest
from tasks import enqueue

@pytest.mark.parametrize("number", range({count}))
def test_fees(b2copy, number):
    b2copy.fees("7", pending_polls=1)
    enqueue.fees(account_login="7", request_id=f"W{{number}}")
    b2copy.run_until_idle()
    assert b2copy.operation(f"fees.process:W{{number}}").state == "succeeded"
"""
_OTHER_PLUGINS = [f"-pno:{name}" for name in ("django", "schemathesis", "valkey", "xdist", "cacheprovider", "anyio")]


def imports(results: Results) -> None:
    """Seconds, MB and modules of `import tasks.enqueue`, beside those of its libraries alone and of the largest two.

    SQLAlchemy imports asyncio, which is more than a third of what it takes. Neither of the two can be imported in part.
    """
    largest = {name: f"import {name}" for name in ("sqlalchemy", "pydantic_settings")}
    for who, code in {"tasks.enqueue": _OURS, "its libraries alone": _LIBRARIES, **largest}.items():
        runs = [_import(code) for _ in range(IMPORTS)]
        took, peak, modules = (median(values) for values in zip(*runs, strict=True))
        results.add("import", who=who, s=took, mb=peak, modules=modules)


def _import(code: str) -> tuple[float, ...]:
    command = [sys.executable, "-c", _MEASURE.format(imports=code)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=True)
    return tuple(map(float, done.stdout.split()))


def fixture(folder: Path, results: Results) -> None:
    """How long a suite takes of which each test uses the fixture, and the set-up of its tests.

    That of the first test has a figure of its own, because it also imports everything.
    """
    suite = folder / "suite"
    suite.mkdir()
    (suite / "test_crm.py").write_text(_SUITE.format(count=TESTS))
    command = [sys.executable, "-m", "pytest", "-q", "--durations=0", "--durations-min=0", *_OTHER_PLUGINS]
    done = subprocess.run(command, cwd=suite, env=clean_environment(), capture_output=True, text=True)
    [(passed, seconds)] = re.findall(r"(\d+) passed.* in ([\d.]+)s", done.stdout) or [(0, 0)]
    shown = re.findall(r"^([\d.]+)s setup +\S+\[(\d+)\]$", done.stdout, re.M)
    setups = {int(number): float(took) for took, number in shown}
    if int(passed) != TESTS or len(setups) != TESTS:
        results.add("failed", who="the fixture b2copy", error=done.stdout.strip().splitlines()[-1])
        return
    first = setups.pop(0)
    results.add(
        "fixture", who="b2copy", tests=int(passed), s=float(seconds), first_setup_s=first,
        setup_p50_s=percentile(list(setups.values()), 0.5), setup_max_s=max(setups.values()),
    )  # fmt: skip
