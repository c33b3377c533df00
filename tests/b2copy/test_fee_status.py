"""What `processext` answers inside its HTTP 200."""

import logging
from typing import Any

import pytest

from worker.b2copy import FeeState
from worker.b2copy.routes.fees import fee_status
from worker.errors import UnknownOutcome


def body(**changes: Any) -> dict[str, Any]:
    return {"account_login": "7", "request_id": "W1", "status": 2} | changes


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (1, FeeState.PENDING),
        (2, FeeState.SUCCESS),
        (3, FeeState.ERROR),
        ("1", FeeState.PENDING),
        ("2", FeeState.SUCCESS),
        ("3", FeeState.ERROR),
        (2.0, FeeState.SUCCESS),
        ("FEE_PROCESS_STATUS_PENDING", FeeState.PENDING),
        ("FEE_PROCESS_STATUS_SUCCESS", FeeState.SUCCESS),
        ("FEE_PROCESS_STATUS_ERROR", FeeState.ERROR),
        ("SUCCESS", FeeState.SUCCESS),
    ],
)
def test_a_status_is_a_number_or_its_name(status: Any, state: FeeState) -> None:
    assert fee_status(body(status=status), "7", "W1").state is state


@pytest.mark.parametrize(
    "status", [0, 4, -2, 2.5, float("inf"), float("nan"), "", "²", "FEE_PROCESS_STATUS_QUEUED", None, [2], {"a": 2}]
)
def test_an_unheard_of_status_counts_as_pending_and_is_told(status: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        told = fee_status(body(status=status), "7", "W1")

    assert told.state is FeeState.PENDING
    assert "unknown status" in told.words
    assert "unknown status" in caplog.text


@pytest.mark.parametrize(
    "other",
    [
        {},
        [],
        "2",
        2,
        None,
        {"account_login": "7", "request_id": "W1"},
        body(account_login="8"),
        body(request_id="W2"),
        body(request_id=None),
    ],
    ids=str,
)
def test_an_answer_about_something_else_is_an_unknown_outcome(other: Any) -> None:
    with pytest.raises(UnknownOutcome) as caught:
        fee_status(other, "7", "W1")

    assert caught.value.status == 200  # B2COPY did answer: such an answer counts


def test_a_login_that_comes_back_as_a_number_is_still_ours() -> None:
    assert fee_status(body(account_login=7), "7", "W1").state is FeeState.SUCCESS


def test_an_answer_without_login_and_id_is_believed() -> None:
    assert fee_status({"status": 2}, "7", "W1").state is FeeState.SUCCESS


@pytest.mark.parametrize("name", ["error", "message", "details"])
def test_the_words_of_an_error_stand_under_one_of_three_names(name: str) -> None:
    assert fee_status(body(status=3, **{name: "no money"}), "7", "W1").words == "no money"
