"""Run the tests on mutants, one after the other in a copy of the tree. Results go to a file: a later run continues."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.mutants.mutations import Mutant, chosen_numbers, mutants_of
from tests.mutants.parts import PARTS, Part
from tests.mutants.plan import Plan, StoredPlan, digest_of
from tests.mutants.server import POSTGRES
from tests.postgres import Postgres
from worker.testbed.processes import clean_environment

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / ".mutants"
COLLECTING_LIMIT_S = 1800.0
TOO_SLOW = 5

Result = dict[str, Any]
"""`result`: `killed`, `survived` or `timeout`; `by`: the test that failed; `seconds`."""


@cache
def mutants_in(part: Part, seed: str = "") -> list[Mutant]:
    """Return every mutant of a part, in an order that looks random and does not depend on the other mutants.

    So a sample is the beginning of this list, and stays a sample when the code changes. `seed` gives another order.
    """
    found = [one for file in files_of(part) for one in mutants_of(file, (ROOT / file).read_text())]
    return sorted(found, key=lambda one: hashlib.sha256(f"{seed}{one.name}".encode()).digest())


def chosen_numbers_in(part: Part) -> list[str]:
    """Return the numbers of a part that are no mutants, because they are a choice."""
    return [one for file in files_of(part) for one in chosen_numbers((ROOT / file).read_text())]


def files_of(part: Part) -> list[str]:
    files = [str(path.relative_to(ROOT)) for place in part.files for path in sorted((ROOT / place).rglob("*.py"))]
    return [file for file in files if not file.startswith(part.without)]


def results_file(name: str, seed: str = "") -> Path:
    return RESULTS / f"{name}{seed and '-'}{seed}.jsonl"


def read_results(name: str, seed: str = "") -> dict[str, list[Result]]:
    """Return all results of each mutant that the code still has, the oldest first, in the order of `mutants_in`."""
    path = results_file(name, seed)
    stored: dict[str, list[Result]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        result = json.loads(line)
        stored.setdefault(result.pop("name"), []).append(result)
    return {one.name: stored[one.name] for one in mutants_in(PARTS[name], seed) if one.name in stored}


def run_part(name: str, sample: int | None, seconds: float, survivors: bool = False, seed: str = "") -> None:
    """Run the mutants of a part until the sample or the seconds are used up; with `survivors` those that survived."""
    part = PARTS[name]
    results = read_results(name, seed)
    everything = mutants_in(part, seed)
    if survivors:
        left = [one for one in everything if one.name in results and results[one.name][-1]["result"] != "killed"]
    else:
        left = [one for one in everything[:sample] if one.name not in results]
    if not left:
        return
    with Copy() as copy:
        plan = _plan(copy, part)
        ends = time.monotonic() + seconds
        for mutant in left:
            if time.monotonic() > ends:
                return
            _append(results_file(name, seed), mutant, copy.result_of(mutant, plan))


def _plan(copy: "Copy", part: Part) -> Plan:
    code = [file for part in PARTS.values() for file in files_of(part)]
    paths = [path for place in part.tests for path in _test_files(copy.folder / place)]
    digests = {str(path.relative_to(copy.folder)): digest_of([path]) for path in paths}
    stored = StoredPlan(RESULTS / "plan.json", digest_of(copy.folder / file for file in code))
    if missing := stored.missing(digests):
        print(f"the tests of {len(missing)} files run once, to learn which lines each of them runs", flush=True)
        collected = copy.ask(files=missing, limit_s=COLLECTING_LIMIT_S)
        if "seconds" not in collected:
            sys.exit(f"the tests cannot run\n{(copy.folder / 'log').read_text()[-3000:]}")
        stored.add(copy.folder, collected, code, digests)
    plan = stored.plan(digests, part.readers)
    print(f"{len(plan.seconds)} tests, {sum(plan.seconds.values()):.0f} s", flush=True)
    for test in plan.failed:
        print(f"left out, because it fails without any fault: {test}", flush=True)
    return plan


def _test_files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(place.rglob("test_*.py"))


def decide(tests: list[str], run: Callable[[list[str], bool, float | None], Result]) -> Result:
    """Say whether these tests notice a fault. `run`: (tests, with the fault?, limit in seconds) -> result.

    A failure counts only if the test passes without the fault directly afterwards: on a busy machine it may fail or
    take too long by itself. What takes `TOO_SLOW` times as long as without the fault never ends. `make test` ends each
    test that takes too long, so it is noticed.
    """
    left = tests
    while left:
        result = run(left, True, None)
        if result["result"] == "survived":
            return result
        blamed = [result["by"]] if result["by"] in left else left
        began = time.monotonic()
        passes = run(blamed, False, None)["result"] == "survived"
        took = time.monotonic() - began
        if passes and result["result"] == "timeout":
            result = run(blamed, True, TOO_SLOW * (took + 10))
            return {"result": "killed", "by": "it never ends"} if result["result"] == "timeout" else result
        if passes:
            return result
        if result["by"] not in left:
            return {"result": "timeout", "by": None}
        left = [test for test in left if test not in blamed]
    return {"result": "survived", "by": None}


class Copy:
    """A copy of the tree in a temporary folder, and the process that runs tests in it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="b2copy-mutants-"))
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
        for name in listed.stdout.decode().split("\0"):
            if name and (ROOT / name).exists():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        self._postgres = Postgres()
        self._written = 0

    def __enter__(self) -> "Copy":
        self._postgres.start()
        (self.folder / "tmp").mkdir()
        environment = {POSTGRES: str(self._postgres.folder), "TMPDIR": str(self.folder / "tmp")}
        environment["PYTHONPATH"] = str(self.folder)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants.server"], cwd=self.folder, env=clean_environment(**environment),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        self._server.wait()
        self._postgres.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, **order: Any) -> dict[str, Any]:
        """Let the server run tests: see `tests.mutants.server`."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        if not answer:
            raise RuntimeError("the server of the tests has ended")
        self._forget_what_the_tests_left()
        return dict(json.loads(answer))

    def result_of(self, mutant: Mutant, plan: Plan) -> Result:
        def run(tests: list[str], with_fault: bool, limit_s: float | None) -> Result:
            with self._mutated(mutant) if with_fault else nullcontext():
                return self._run(tests, plan, limit_s)

        began = time.monotonic()
        result: Result = {"result": "survived", "by": None}
        for tests in plan.rounds(mutant):
            result = decide(tests, run)
            if result["result"] != "survived":
                break
        return result | {"seconds": round(time.monotonic() - began, 1)}

    def _run(self, tests: list[str], plan: Plan, limit_s: float | None) -> Result:
        expected = sum(plan.seconds.get(test, 0.0) for test in tests)
        longest = max(plan.seconds.get(test, 0.0) for test in tests)
        return self.ask(tests=tests, limit_s=limit_s or 240 + 6 * expected, test_limit_s=60 + 10 * longest)

    @contextmanager
    def _mutated(self, mutant: Mutant) -> Iterator[None]:
        original = (self.folder / mutant.file).read_text()
        try:
            self._write(mutant.file, mutant.source)
            yield
        finally:
            self._write(mutant.file, original)

    def _write(self, file: str, source: str) -> None:
        """Write a file with a time of its own: stored bytecode is that of the same size and second."""
        path = self.folder / file
        path.write_text(source)
        self._written += 1
        os.utime(path, (self._written, self._written))

    def _forget_what_the_tests_left(self) -> None:
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        (self.folder / "tmp").mkdir()
        with self._postgres.connect() as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            schemas = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ '^t[0-9]+$'").fetchall()
            for (schema,) in schemas:
                connection.execute(f"DROP SCHEMA {schema} CASCADE")


def _append(path: Path, mutant: Mutant, result: Result) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"name": mutant.name, **result}) + "\n")
    by = f", by {result['by']}" if result["by"] else ""
    print(f"{result['result']:9} {result['seconds']:5.1f} s  {mutant.name} (line {mutant.line}){by}", flush=True)
