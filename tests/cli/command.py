"""Run `b2copy-sync` in a process of its own, without paying for its imports each time.

multiprocessing's fork server imports them once; every command is then a fork of it, with environment, arguments and
output of its own.
"""

import json
import multiprocessing
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["worker.cli", "worker.ledger.statistics", "tasks.enqueue", "tasks.registry", "tasks.inbox", "tests.cli.command"]
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


def run(folder: Path, environment: Mapping[str, str], *arguments: str, within: float = 30.0) -> Ran:
    """Run the command to its end. `folder` is where its output goes."""
    files = [folder / "out", folder / "err"]
    process = _SERVER.Process(target=_main, args=(arguments, dict(environment), files))
    process.start()
    process.join(within)
    assert process.exitcode is not None, f"{arguments} did not end: {files[1].read_text()}"
    return Ran(process.exitcode, *(file.read_text() for file in files))


def _main(arguments: tuple[str, ...], environment: dict[str, str], files: list[Path]) -> None:
    from worker.cli import main

    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = ["b2copy-sync", *arguments]
    main()
