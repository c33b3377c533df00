"""The table of failure modes is whole."""

from tests.session.failure_modes import CANNOT_OCCUR, MODES, covered, table


def test_every_failure_mode_is_caught_or_cannot_occur() -> None:
    caught = covered()

    assert set(caught) - set(MODES) == set()
    assert set(MODES) - set(caught) == set(CANNOT_OCCUR)
    assert len(CANNOT_OCCUR) <= 6
    assert all(CANNOT_OCCUR.values())


def test_the_modes_are_numbered_without_a_gap() -> None:
    assert list(MODES) == [f"F{number}" for number in range(1, 59)]
    assert "NOTHING" not in table()
