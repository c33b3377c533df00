"""Run the tests on mutants, each in a copy of the tree. Results go to a file, so that a later run continues."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from tests.mutants.mutations import Mutant, mutants_of
from tests.mutants.parts import PARTS, Part
from worker.testbed.processes import clean_environment

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / ".mutants"
TIMEOUT_S = 240.0  # for all tests of a part; a mutant that hangs is killed by it


def mutants_in(part: Part) -> list[Mutant]:
    """Return every mutant of a part, file by file."""
    found: list[Mutant] = []
    for place in part.files:
        for path in sorted((ROOT / place).rglob("*.py")):
            file = str(path.relative_to(ROOT))
            if not file.startswith(part.without):
                found += mutants_of(file, path.read_text())
    return found


def run_part(name: str, sample: int | None, seconds: float, at_once: int) -> dict[str, str]:
    """Run the mutants of a part, in random order, until the sample or the time is used up.

    Returns the results of all runs so far: name of the mutant -> `killed`, `survived` or `timeout`.
    """
    part, ends = PARTS[name], time.monotonic() + seconds
    everything = mutants_in(part)
    known = {one.name for one in everything}
    results = {mutant: result for mutant, result in _read(name).items() if mutant in known}
    random.Random(name).shuffle(everything)  # the same order each time, so that a sample is a fixed one
    left = [one for one in everything[:sample] if one.name not in results]
    copies: SimpleQueue[Path] = SimpleQueue()
    folders = [_copy_of_the_tree(number) for number in range(at_once)]
    for folder in folders:
        copies.put(folder)

    def run(mutant: Mutant) -> tuple[Mutant, str] | None:
        if time.monotonic() > ends:
            return None
        folder = copies.get()
        try:
            return mutant, _result_of(mutant, part, folder)
        finally:
            copies.put(folder)

    try:
        with ThreadPoolExecutor(at_once) as threads:
            for done in threads.map(run, left):
                if done is not None:
                    results[done[0].name] = done[1]
                    _append(name, *done)
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    return {mutant.name: results[mutant.name] for mutant in everything if mutant.name in results}


def check_unchanged(name: str) -> None:
    """Run the tests of a part on the code as it is. Exits if they fail, because then every mutant would be killed."""
    folder = _copy_of_the_tree(99)
    try:
        if _tests_pass(PARTS[name], folder, TIMEOUT_S * 2) != "survived":
            log = (folder / "log").read_text()[-3000:]
            sys.exit(f"{name}: the tests fail without any fault: correct that first\n{log}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _result_of(mutant: Mutant, part: Part, folder: Path) -> str:
    file = folder / mutant.file
    original = file.read_text()
    file.write_text(mutant.source)
    try:
        return _tests_pass(part, folder, TIMEOUT_S)
    finally:
        file.write_text(original)


def _tests_pass(part: Part, folder: Path, within_s: float) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--timeout", "60", *part.tests]
    environment = clean_environment(PYTHONPATH=str(folder), PYTHONDONTWRITEBYTECODE="1")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        return "killed" if process.wait(within_s) else "survived"
    except subprocess.TimeoutExpired:
        return "timeout"
    finally:
        with suppress(ProcessLookupError):  # with every process that a test has left behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _copy_of_the_tree(number: int) -> Path:
    """Copy what git knows, so that each run has files of its own."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"b2copy-mutants-{os.getpid()}-{number}"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def _read(name: str) -> dict[str, str]:
    return dict(_lines(RESULTS / f"{name}.jsonl"))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield tuple(json.loads(line))


def _append(name: str, mutant: Mutant, result: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps([mutant.name, result]) + "\n")
    print(f"{result:9} {mutant.name} (line {mutant.line})", flush=True)
