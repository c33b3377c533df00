"""The runner of mutants: what it changes, which tests it chooses, and how sure its figures are."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import run
from tests.mutants.__main__ import interval, justified, report
from tests.mutants.mutations import Mutant, chosen_numbers, mutants_of
from tests.mutants.parts import PARTS
from tests.mutants.plan import Plan
from tests.mutants.run import ROOT, mutants_in
from worker.testbed.processes import clean_environment

CODE = '''
PAGE = 50 * 2
KEY_LIMIT = 255
LIMIT = min(PAGE, 3)


def wanted(text: str | None, most: int = LIMIT, *, limit: int = 70) -> bool:
    """A docstring is no code."""
    if text is None:
        return False
    return len(text) <= most and text != "" and len(text) * 1000 < 7_000
'''


def named(change: str) -> Mutant:
    [found] = [one for one in mutants_of("a.py", CODE) if one.name.endswith(change)]
    return found


def test_each_mutant_is_one_change_that_compiles() -> None:
    mutants = mutants_of("a.py", CODE)

    assert len({one.source for one in mutants}) == len(mutants) > 5
    assert all(ast.dump(ast.parse(one.source)) != ast.dump(ast.parse(CODE)) for one in mutants)
    assert not [one.name for one in mutants if "docstring" in one.name or "str | None" in one.name]
    assert named("1000 -> 2000").line == named("7_000 -> 14000").line == 11


def test_a_number_is_left_out_only_if_it_is_how_much_is_read_at_once_and_is_counted() -> None:
    names = [one.name for one in mutants_of("a.py", CODE)]

    assert not [name for name in names if "50" in name or "70 " in name]
    assert chosen_numbers(CODE) == ["PAGE = 50 * 2", "limit=70"]
    assert [name for name in names if "255 -> 510" in name], "a contract"
    assert {"BATCH", "CANCEL_CHUNK", "AUDIT_WINDOW", "COUNT_LIMIT"} == {
        name
        for name in ("BATCH", "CANCEL_CHUNK", "AUDIT_WINDOW", "COUNT_LIMIT", "MINUTE_MS", "RESERVE_ONE_IN", "KEY_LIMIT")
        if chosen_numbers(f"{name} = 5")
    }


def test_a_mutants_name_does_not_depend_on_other_lines() -> None:
    later = mutants_of("a.py", "import os\n\n\n" + CODE)

    assert [one.name for one in later] == [one.name for one in mutants_of("a.py", CODE)]


def test_the_tests_that_run_a_line_are_chosen_the_quickest_first_and_processes_last() -> None:
    at = named("text == ''")
    line = at.line
    plan = Plan(
        {
            "t.py::slow": 3.0,
            "t.py::quick": 0.1,
            "u.py::fleet": 0.2,
            "r.py::reads": 0.3,
            "t.py::other": 0.1,
            "t.py::fails": 0.1,
        },
        ["t.py::fails"],
        {"a.py": {line: ["t.py::slow", "t.py::fails", "t.py::quick"], 3: ["t.py::other"]}},
        {"a.py": {line: ["u.py"]}},
        ("r.py",),
    )

    assert plan.rounds(at) == [["t.py::quick", "t.py::slow"], ["u.py::fleet"]]
    anywhere = plan.rounds(named("3 -> 4"))  # nobody knows which tests use a default
    assert anywhere == [["r.py::reads"], ["t.py::other", "t.py::quick", "t.py::slow"], ["u.py::fleet"]]


def test_what_runs_at_import_is_noticed_where_its_name_is_used() -> None:
    code = "_A = [3]\n_B = [_A, 4]\nC = [5]\n\n\ndef first():\n    return C, _B\n\n\ndef second():\n    return _A\n"
    reached = {one.name.partition(": ")[2]: one.reached_by for one in mutants_of("a.py", code)}

    assert reached["3 -> 4"] == {7, 11}
    assert reached["4 -> 5"] == {7}
    assert reached["5 -> 6"] == frozenset(), "another file may use it"


def test_coverage_does_not_know_who_notices_a_function_that_runs_at_import_or_once() -> None:
    code = """
def _inner():
    return 1 + 2

def _built():
    return _inner()

def _late():
    return 4 + 5

@cache
def _cached():
    return 6 + 7

_STATEMENT = prepare(_built)
"""
    reached = {one.name.partition(": ")[2]: one.reached_by for one in mutants_of("a.py", code)}

    assert reached["1 + 2 -> (1 - 2)"] == reached["6 + 7 -> (6 - 7)"] == frozenset()
    assert reached["4 + 5 -> (4 - 5)"] == {9}


@pytest.mark.parametrize(("killed", "run", "low", "high"), [(95, 100, 0.888, 0.978), (10, 10, 0.722, 1.0)])
def test_the_interval_is_wilsons(killed: int, run: int, low: float, high: float) -> None:
    assert interval(killed, run) == pytest.approx((low, high), abs=0.001)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Results of the part `messages`, in a folder of their own. Returns the names of the mutants that ran, in order."""
    names = [one.name for one in mutants_in(PARTS["messages"])[:4]]
    words = ["killed", "survived", "killed", "killed"]
    lines = [*zip(names, words, strict=True), (names[1], "killed")]
    (tmp_path / "messages.jsonl").write_text(
        "".join(json.dumps({"name": name, "result": word, "by": None}) + "\n" for name, word in lines)
    )
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    return names


def test_the_first_result_of_each_mutant_is_the_samples(stored: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert report("messages") == 0

    shown = " ".join(capsys.readouterr().out.split())
    assert " 4 run 3 killed 75.0 % (30.1 to 95.4); after tests were added 4 killed 100.0 %; " in shown


def test_a_mutant_that_is_too_slow_is_listed_and_counts_as_not_noticed(
    stored: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with (run.RESULTS / "messages.jsonl").open("a") as file:
        file.write(json.dumps({"name": stored[2], "result": "timeout", "by": None}) + "\n")

    assert report("messages") == 1
    assert f"too slow: {stored[2]}\n" in capsys.readouterr().out


TESTS = """
import sys
from pathlib import Path


def test_passes():
    pass


def test_fails_once_and_leaves_its_process_broken():
    broken, first = hasattr(sys, "broken"), not Path("ran").exists()
    Path("ran").touch()
    sys.broken = True
    assert not (broken or first)


def test_fails():
    assert False
"""


def test_a_failure_is_confirmed_in_a_process_that_has_not_seen_it(tmp_path: Path) -> None:
    """pytest runs in forks of a process that is not the one of these tests."""
    (tmp_path / "test_some.py").write_text(TESTS)
    (tmp_path / "pytest.ini").touch()
    passes, once, fails = (
        f"test_some.py::test_{name}" for name in ("passes", "fails_once_and_leaves_its_process_broken", "fails")
    )
    orders = [[passes, once], [passes, fails]]
    code = (
        "import json, sys; from tests.mutants.server import result_of\n"
        "for tests in json.load(sys.stdin):\n"
        "    print(json.dumps(result_of({'tests': tests, 'limit_s': 60, 'test_limit_s': 20})), flush=True)"
    )
    plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "-p pytest_timeout"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean_environment(PYTHONPATH=str(ROOT), **plugins),
        input=json.dumps(orders), capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"result": "survived", "by": None},
        {"result": "killed", "by": fails},
    ]


KILLED, TIMEOUT, SURVIVED = ({"result": word, "by": None} for word in ("killed", "timeout", "survived"))


@pytest.mark.parametrize(
    ("with_fault", "without", "decided"),
    [
        ([KILLED | {"by": "a"}], [SURVIVED], KILLED | {"by": "a"}),
        ([KILLED | {"by": "a"}, SURVIVED], [KILLED], SURVIVED),  # `a` fails by itself, `b` does not notice
        ([KILLED | {"by": "a"}, KILLED | {"by": "b"}], [KILLED, SURVIVED], KILLED | {"by": "b"}),
        ([TIMEOUT, TIMEOUT], [SURVIVED], KILLED | {"by": "it never ends"}),
        ([TIMEOUT, SURVIVED], [SURVIVED], SURVIVED),  # it was slow for a moment
        ([TIMEOUT], [TIMEOUT], TIMEOUT),
    ],
)
def test_what_tests_show_counts_only_if_they_pass_without_the_fault(
    with_fault: list[run.Result], without: list[run.Result], decided: run.Result
) -> None:
    def ran(tests: list[str], is_faulty: bool, _limit_s: float | None) -> run.Result:
        return (with_fault if is_faulty else without).pop(0)

    assert run.decide(["a", "b"], ran) == decided
    assert not with_fault
    assert not without


def test_every_justified_mutant_exists() -> None:
    files = {name.partition("::")[0] for name in justified()}
    known = {one.name for file in files for one in mutants_of(file, (ROOT / file).read_text())}

    assert justified().keys() <= known
    assert all(justified().values())
