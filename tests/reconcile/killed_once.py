"""A reconciliation as a command of its own, killed once and resumed, while operations open accounts.

Run by `make chaos` with a hundred thousand accounts, and with few by a test.
"""

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import text

from tests.reconcile.book import plant
from tests.support import until
from worker.ledger import Ledger, find_many
from worker.ledger.reconciliation import current_run
from worker.operation import State
from worker.testbed.local_system import Environment

_COMMAND = """
import atexit, os, re, sys
from pathlib import Path
def note():
    peak = re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]
    Path(os.environ["PEAK_FILE"]).write_text(peak)
atexit.register(note)
from worker.cli import main
sys.argv = ["b2copy-sync", "reconcile", "--json"]
main()
"""
LIST = "accounts.list"


@dataclass(frozen=True)
class Ended:
    """What the resumed command printed, and what it took. `wrong`: logins with another difference than planted."""

    code: int
    document: dict[str, Any]
    wrong: list[str]
    planted: int
    opened: int
    requests: int
    most_in_a_second: int
    peak_mb: float
    seconds: float


def reconcile_killed_once(environment: Environment, ledger: Ledger, accounts: int, planted: int, opened: int) -> Ended:
    """Plant differences, run the command, kill it in the middle, run it again. A worker opens accounts all the time.

    The environment has a worker.
    """
    control = environment.sandbox.control
    expected = plant(ledger, control, accounts, planted)
    control.switches(call_log=True)
    began = time.monotonic()
    stopped = threading.Event()
    opener = threading.Thread(target=_open, args=(ledger, opened, stopped))
    opener.start()
    try:
        first = _start(environment)
        until(lambda: (run := current_run(ledger)) is not None and run.position > accounts / 3, 120, every=0.005)
        first.kill()
        first.communicate()
        killed_at = current_run(ledger)
        assert killed_at is not None
        assert killed_at.phase == "reading"
        second = _start(environment)
        out, err = second.communicate(timeout=240)
    finally:
        stopped.set()
        opener.join()
    seconds = time.monotonic() - began
    assert "continuing after" in err, err
    document = json.loads(out)
    found = {one["login"]: one["difference"] for one in document["plan"]}
    until(lambda: _opened(ledger, opened) == opened, within=30)
    arrivals = [call["arrived"] for call in control.calls() if call["route"] == LIST]
    return Ended(
        code=second.returncode,
        document=document,
        wrong=sorted(login for login in found.keys() | expected.keys() if found.get(login) != expected.get(login)),
        planted=len(expected),
        opened=opened,
        requests=len(arrivals),
        most_in_a_second=max(Counter(int(at) for at in arrivals).values()),
        peak_mb=int((environment.folder / "peak").read_text()) / 1024,
        seconds=seconds,
    )


def _start(environment: Environment) -> "subprocess.Popen[str]":
    variables = environment.variables | {"PEAK_FILE": str(environment.folder / "peak")}
    return subprocess.Popen(
        [sys.executable, "-c", _COMMAND],
        env=variables,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _open(ledger: Ledger, count: int, stopped: threading.Event) -> None:
    """Have accounts opened one after the other, each by an operation."""
    insert = text("INSERT INTO b2copy_requests (kind, payload) VALUES ('accounts.create', :payload)")
    for number in range(count):
        payload = {"login": _login(number), "product_currency_id": 1, "client_id": 1}
        with ledger.writing() as connection:
            connection.execute(insert, {"payload": json.dumps(payload)})
        stopped.wait(0.02)


def _login(number: int) -> str:
    return f"9{number:06}"


def _opened(ledger: Ledger, count: int) -> int:
    found = find_many(ledger, [f"accounts.create:1/{_login(number)}" for number in range(count)])
    return sum(one.state == State.SUCCEEDED for one in found.values())
