"""How a registration and an opening may end at each kill point."""

import pytest

from tests.faults.clients.scenarios import ID_UNKNOWN, ONCE, POINTS, UNRESOLVED, holds

GOOD = {"unknown": ONCE, "refused": ONCE, "returned": ONCE}
ALWAYS_KNOWN = [
    *(f"{when} the call {name}" for name in ("auth_url", "wizard.init") for when in ("before", "after")),
    "before commit 1", "after commit 1", "before commit 2", "after commit 3",
]  # fmt: skip


@pytest.mark.parametrize("point", POINTS)
def test_one_client_and_one_account_are_right_at_every_point(point: str) -> None:
    assert holds(point, GOOD) == []


@pytest.mark.parametrize("point", ALWAYS_KNOWN)
def test_nothing_is_unknown_before_the_wizard_begins_and_after_the_registration_has_succeeded(point: str) -> None:
    assert point in POINTS
    for end in UNRESOLVED:
        assert holds(point, GOOD | {"unknown": end}) == [f"unknown: {end}"]
    assert holds(point, GOOD | {"refused": ID_UNKNOWN}) == [f"refused: {ID_UNKNOWN}"]


@pytest.mark.parametrize("point", [point for point in POINTS if point not in ALWAYS_KNOWN])
def test_what_b2copy_hides_may_be_unknown_at_the_other_points(point: str) -> None:
    for end in UNRESOLVED:
        assert holds(point, GOOD | {"unknown": end}) == []
    assert holds(point, GOOD | {"refused": ID_UNKNOWN}) == []
    assert holds(point, GOOD | {"returned": ID_UNKNOWN}) == [f"returned: {ID_UNKNOWN}"]
