"""What a run of a CRM's transactions under kills must have shown before it counts."""

from tests.faults.crm.scenarios import each_once, visibility

GOOD = {
    "transactions": 1_000, "committed": 500, "once": 500, "twice": 0, "of rolled back": 0, "late": 0,
    "never visible": 0, "kills": 10,
}  # fmt: skip


def test_an_operation_that_nobody_saw_is_never_visible_and_not_an_error_of_the_judge() -> None:
    figures = visibility({"a": 1.0, "b": 2.0, "c": 3.0}, {"a": 1.25, "c": 5.0})

    assert (figures["late"], figures["never visible"]) == (1, 1)
    assert each_once(GOOD | figures) == ["1 never visible", "1 were visible later than 1 s after their commit"]


def test_a_run_with_too_few_kills_shows_nothing() -> None:
    assert each_once(GOOD) == []
    assert each_once(GOOD | {"kills": 9}) == ["only 9 kills in 1000 transactions"]
