"""The benchmark itself: what it counts, and when an aim is missed."""

import pytest

from tests.bench.contestants import Run
from tests.bench.part import Part
from tests.bench.races import run_rounds
from tests.bench.report import Report, at_least, at_most, percentile
from worker.ledger import open_ledger, search
from worker.testbed.local_system import Environment
from worker.testbed.processes import ProcessFailed


def test_every_round_runs_each_contestant_and_begins_with_another() -> None:
    order: list[str] = []

    def contestant(name: str) -> Run:
        order.append(name)
        return Run(count=len(order), seconds=1.0, cpu=0.0)

    first, second = run_rounds(2, lambda: contestant("a"), lambda: contestant("b"))

    assert "".join(order) == "ab" + "ab" + "ba"
    assert [run.rate for run in first] == [3, 6]
    assert [run.rate for run in second] == [4, 5]


def test_a_figure_beside_its_aim_is_met_or_missed(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()

    report.section("a race", [at_least("rate", 1.0, 1.0), at_least("worst", 0.89, 0.9), at_most("CPU", 0.4, 1 / 3)])

    assert report.missed == ["a race: worst 0.89x", "a race: CPU 0.40x"]
    assert capsys.readouterr().out.count("NOT MET") == 2


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in range(100, 0, -1)]

    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (51.0, 100.0, 7.0)


def test_the_crm_enqueues_in_a_process_of_its_own(environment: Environment) -> None:
    ledger = open_ledger(environment.database_url, create=True)
    crm = Part("crm", environment.variables, environment.folder / "crm.log")
    try:
        answer = crm.run("many", batch="bulk", count=3)
        calls = crm.run("singly", batch="single", count=2)["calls"]
    finally:
        crm.close()

    assert answer["ended"] > answer["began"]
    assert answer["cpu"] > 0
    assert [name for name, _, _ in calls] == ["single-0", "single-1"]
    lanes = sorted(operation.lane for operation in search(ledger))
    ledger.close()
    assert lanes == ["bulk"] * 3 + ["money"] * 2


def test_a_part_that_ends_early_raises_its_log(environment: Environment) -> None:
    loop = Part(
        "loop", environment.variables, environment.folder / "loop.log"
    )  # without the variable that says where to post
    try:
        with pytest.raises(ProcessFailed, match="BENCH_URL"):
            loop.result()
    finally:
        loop.close()
