"""An import that is killed while it records, and run again until it is complete."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from worker.ledger import Ledger, open_ledger
from worker.ledger.schema import c

WITHIN_S = 1_800.0


def killed_import(folder: Path, database_url: str, rows: int, kill_at: tuple[int, ...]) -> dict[str, Any]:
    """Import so many rows; kill the process whenever the ledger holds as many as the next number of `kill_at`.

    The ledger must be empty. Returns what the ledger holds at the end, and the largest memory of any run in MB.
    """
    file = folder / "book.csv"
    with file.open("w") as stream:
        stream.write("account_login,request_id\n")
        stream.writelines(f"{100_000 + number},W{number:07}\n" for number in range(rows))
    ledger = open_ledger(database_url)
    began, peaks, kills = time.monotonic(), [], 0
    try:
        for limit in (*kill_at, None):
            was_killed, peak = _run(folder, file, database_url, ledger, limit)
            peaks.append(peak)
            kills += was_killed
        with ledger.reading() as connection:
            counts = connection.execute(select(func.count(), func.count(c.key.distinct())).select_from(c.id.table))
            recorded, keys = counts.one()
            batches = connection.execute(select(func.count(c.batch.distinct()))).scalar_one()
    finally:
        ledger.close()
    return {
        "rows": rows,
        "kills": kills,
        "recorded": recorded,
        "keys": keys,
        "imports": batches,
        "seconds": round(time.monotonic() - began),
        "peak MB": round(max(peaks)),
    }


def _run(folder: Path, file: Path, database_url: str, ledger: Ledger, limit: int | None) -> tuple[bool, float]:
    """Run the import to its end, or kill it at `limit` rows. Returns whether it was killed, and its memory in MB."""
    variables = {"PATH": os.environ["PATH"], "HOME": str(folder), "B2COPY_DATABASE_URL": database_url}
    variables["B2COPY_REDIS_URL"] = "redis://127.0.0.1:1/0"  # the ledger alone decides that a row is accepted
    peak, ends = 0.0, time.monotonic() + WITHIN_S
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "import", str(file)],
            env=variables, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
        try:
            while process.poll() is None:
                peak = max(peak, _peak_mb(process.pid))
                if limit is not None and _recorded(ledger) >= limit:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    return True, peak
                if time.monotonic() > ends:
                    raise AssertionError(f"the import did not end: {(folder / 'errors').read_text()[-500:]}")
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
    if process.returncode:
        raise AssertionError(f"the import failed: {(folder / 'errors').read_text()[-500:]}")
    return False, peak


def _recorded(ledger: Ledger) -> int:
    with ledger.reading() as connection:
        return connection.execute(select(func.max(c.id))).scalar_one() or 0


def _peak_mb(pid: int) -> float:
    try:
        found = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0
