"""Which tests can notice a fault in a line: those that run it, the quickest first. Found by running them once."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coverage import CoverageData

from tests.mutants.mutations import Mutant
from tests.mutants.server import COLLECTED

Lines = dict[str, dict[int, list[str]]]  # file -> line -> test, or the test file whose processes run it

FIRST_S = 2.0  # seconds of tests that run first: most mutants are killed by them


@dataclass(frozen=True)
class Plan:
    """What the tests of a part run. `failed`: tests that fail without any fault, so that they are left out."""

    seconds: dict[str, float]
    failed: list[str]
    in_process: Lines = field(default_factory=dict)
    in_children: Lines = field(default_factory=dict)

    def rounds(self, mutant: Mutant) -> list[list[str]]:
        """Return the tests that may notice a mutant, in rounds: quick ones, others of this process, with processes."""
        direct = self._running(self.in_process, mutant)
        children = set(self._running(self.in_children, mutant))
        files: dict[str, list[str]] = defaultdict(list)
        for test in direct:
            files[_file(test)].append(test)
        first: list[str] = []
        rest: list[str] = []
        for tests in sorted(files.values(), key=self._cost):
            ordered = sorted(tests, key=self._seconds)
            quick = [one for one in ordered if self._seconds(one) < FIRST_S / 2]
            room = not first or self._cost(first) + self._cost(quick) < FIRST_S
            first += quick if room else []
            rest += [one for one in ordered if not room or one not in quick]
        known = {*first, *rest}
        processes = [test for test in self.seconds if _file(test) in children and test not in known]
        return [tests for tests in (first, rest, processes) if tests]

    def _running(self, lines: Lines, mutant: Mutant) -> list[str]:
        by_line = lines.get(mutant.file, {})
        wanted: Iterable[int] = by_line if mutant.at_import else mutant.lines
        found = {name for line in wanted for name in by_line.get(line, ())}
        return sorted(name for name in found if name not in self.failed)

    def _seconds(self, test: str) -> float:
        return self.seconds.get(test, 0.0)

    def _cost(self, tests: Iterable[str]) -> float:
        return sum(map(self._seconds, tests))


def _file(test: str) -> str:
    return test.partition("::")[0]


def digest_of(folder: Path, places: Iterable[str]) -> str:
    """Return the digest of these files and folders: with the same one, a plan is still right."""
    digest = hashlib.sha256()
    for place in sorted(places):
        path = folder / place
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def read_plan(file: Path, digest: str) -> Plan | None:
    """Return the stored plan, or None if there is none of this code."""
    if not file.exists():
        return None
    stored = json.loads(file.read_text())
    if stored.pop("digest") != digest:
        return None
    for name in ("in_process", "in_children"):
        stored[name] = {
            path: {int(line): tests for line, tests in lines.items()} for path, lines in stored[name].items()
        }
    return Plan(**stored)


def write_plan(file: Path, digest: str, plan: Plan) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"digest": digest, **vars(plan)}))


def make_plan(folder: Path, collected: Mapping[str, Any], files: Iterable[str]) -> Plan:
    """Return the plan from what the server collected in `folder`, for these files of the code."""
    plan = Plan(collected["seconds"], collected["failed"])
    direct = _read(Path(collected["data"]))
    children = [
        (test_file, _read(data))
        for number, test_file in enumerate(collected["files"])
        for data in (folder / COLLECTED / str(number)).iterdir()
    ]
    for file in files:
        path = str(folder / file)
        plan.in_process[file] = {
            line: sorted({name for name in names if name}) for line, names in direct.contexts_by_lineno(path).items()
        }
        by_line: dict[int, set[str]] = defaultdict(set)
        for test_file, data in children:
            for line in data.lines(path) or ():
                by_line[line].add(test_file)
        plan.in_children[file] = {line: sorted(names) for line, names in by_line.items()}
    return plan


def _read(file: Path) -> CoverageData:
    data = CoverageData(str(file))
    data.read()
    return data
