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

Lines = dict[str, dict[int, list[str]]]  # file of the code -> line -> what runs it


@dataclass(frozen=True)
class Plan:
    """What the tests run. `in_children` names the test files whose processes run a line."""

    seconds: dict[str, float] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)  # tests that fail without any fault, so that they are left out
    in_process: Lines = field(default_factory=dict)
    in_children: Lines = field(default_factory=dict)
    readers: tuple[str, ...] = ()  # test files that read what a module holds

    def rounds(self, mutant: Mutant) -> list[list[str]]:
        """Return the tests that may notice a mutant, in rounds: the likeliest file, others, with processes."""
        files: dict[str, list[str]] = defaultdict(list)
        running = {*self._running(self.in_process, mutant)}
        if mutant.line not in mutant.reached_by:  # it runs at import
            running.update(test for test in self.seconds if _file(test) in self.readers and test not in self.failed)
        for test in sorted(running, key=lambda test: (self._seconds(test), test)):
            files[_file(test)].append(test)
        order = sorted(files.values(), key=lambda tests: (-_affinity(tests[0], mutant.file), self._cost(tests)))
        first = [test for tests in order[:1] for test in tests]
        rest = [test for tests in order[1:] for test in tests]
        children = set(self._running(self.in_children, mutant))
        processes = [test for test in self.seconds if _file(test) in children and test not in {*first, *rest}]
        return [tests for tests in (first, rest, processes) if tests]

    def _running(self, lines: Lines, mutant: Mutant) -> list[str]:
        by_line = lines.get(mutant.file, {})
        wanted: Iterable[int] = mutant.reached_by or by_line
        found = {name for line in wanted for name in by_line.get(line, ())}
        return sorted(name for name in found if name not in self.failed)

    def _seconds(self, test: str) -> float:
        return self.seconds.get(test, 0.0)

    def _cost(self, tests: Iterable[str]) -> float:
        return sum(map(self._seconds, tests))


def _affinity(test: str, file: str) -> int:
    """Return how many words the names of a test's file and of a file of the code have in common."""
    return len(set(Path(_file(test)).stem.split("_")) & set(Path(file).stem.split("_")))


def _file(test: str) -> str:
    return test.partition("::")[0]


def digest_of(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


class StoredPlan:
    """A plan in a file. It holds of each test file what its tests run, and forgets this when the file has changed.

    When the code has changed it forgets everything, because lines have other numbers then.
    """

    def __init__(self, path: Path, code: str) -> None:
        self._path = path
        stored = json.loads(path.read_text()) if path.exists() else {}
        self._code = code
        self._tests: dict[str, Any] = stored["tests"] if stored.get("code") == code else {}

    def missing(self, digests: Mapping[str, str]) -> list[str]:
        """Return the test files of which nothing is known. `digests`: every test file with its digest."""
        return [file for file, digest in digests.items() if self._tests.get(file, {}).get("digest") != digest]

    def add(self, folder: Path, collected: Mapping[str, Any], code: Iterable[str], digests: Mapping[str, str]) -> None:
        """Add what the server collected in `folder` about these files of the code."""
        direct = _read(Path(collected["data"]))
        for number, test_file in enumerate(collected["files"]):
            children = [_read(data) for data in (folder / COLLECTED / str(number)).iterdir()]
            self._tests[test_file] = {
                "digest": digests[test_file],
                "seconds": {name: took for name, took in collected["seconds"].items() if _file(name) == test_file},
                "failed": [name for name in collected["failed"] if _file(name) == test_file],
                "in_process": {},
                "in_children": {},
            }
            for file in code:
                in_children = {line for data in children for line in data.lines(str(folder / file)) or ()}
                self._tests[test_file]["in_children"][file] = sorted(in_children)
        for file in code:
            for line, names in direct.contexts_by_lineno(str(folder / file)).items():
                for name in filter(None, names):
                    by_line = self._tests[_file(name)]["in_process"].setdefault(file, {})
                    by_line.setdefault(str(line), []).append(name)
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_text(json.dumps({"code": self._code, "tests": self._tests}))

    def plan(self, test_files: Iterable[str], readers: tuple[str, ...]) -> Plan:
        """Return the plan of these test files."""
        plan = Plan(readers=readers)
        for test_file in test_files:
            stored = self._tests.get(test_file)
            if stored is None:  # it holds no test
                continue
            plan.seconds.update(stored["seconds"])
            plan.failed.extend(stored["failed"])
            for file, by_line in stored["in_process"].items():
                for line, names in by_line.items():
                    plan.in_process.setdefault(file, {}).setdefault(int(line), []).extend(names)
            for file, lines in stored["in_children"].items():
                for line in lines:
                    plan.in_children.setdefault(file, {}).setdefault(line, []).append(test_file)
        return plan


def _read(file: Path) -> CoverageData:
    data = CoverageData(str(file))
    data.read()
    return data
