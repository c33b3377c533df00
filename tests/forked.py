"""Run a command in a process of its own, without paying for its imports each time.

multiprocessing's fork server imports them once; every command is then a fork of it, with environment, arguments and
output of its own. Importing the code reads no setting and opens no connection (see worker/app.py).
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "celery.apps.beat",
        "celery.apps.worker",
        "celery.bin.celery",
        "psycopg",
        "tasks.enqueue",
        "tasks.kind_tasks",
        "tasks.drain_lane",
        "tasks.registry",
        "tests.cli.command",
        "worker.b2copy",
        "worker.cli",
        "worker.doctor.run_checks",
        "worker.ledger.statistics",
        "worker.messages.dispatch_timer",
        "worker.session",
    ]
)


@dataclass(frozen=True)
class Ran:
    code: int | None
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What was printed, which must be one JSON document and nothing else."""
        return json.loads(self.out)


def run(
    main: Callable[[], object], folder: Path, environment: Mapping[str, str], arguments: list[str], within: float = 60.0
) -> Ran:
    """Run a command's function to its end. `folder` is where its output goes, `arguments` are its `sys.argv`."""
    files = [folder / "out", folder / "err"]
    process = SERVER.Process(target=_run, args=(main, arguments, dict(environment), files))
    process.start()
    process.join(within)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"{arguments} did not end: {files[1].read_text()}")
    return Ran(process.exitcode, *(file.read_text() for file in files))


def _run(main: Callable[[], object], arguments: list[str], environment: dict[str, str], files: list[Path]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = arguments
    main()
