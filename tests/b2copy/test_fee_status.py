"""What `processext` answers inside its HTTP 200."""

import json
import logging
from typing import Any

import pytest

from worker.b2copy import FeeState
from worker.b2copy.routes.fees import read_status
from worker.errors import UnknownOutcome

SENT = {"account_login": "7", "request_id": "W1"}
DEEP: Any = json.loads("[" * 900 + "]" * 900)


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
        ("0002", FeeState.SUCCESS),
        (2.0, FeeState.SUCCESS),
        ("FEE_PROCESS_STATUS_PENDING", FeeState.PENDING),
        ("FEE_PROCESS_STATUS_SUCCESS", FeeState.SUCCESS),
        ("FEE_PROCESS_STATUS_ERROR", FeeState.ERROR),
        ("SUCCESS", FeeState.SUCCESS),
    ],
)
def test_a_status_is_a_number_or_its_name(status: Any, state: FeeState) -> None:
    assert read_status(body(status=status), SENT).state is state


@pytest.mark.parametrize("other", [{"accountLogin": "8"}, {"requestId": "W9"}, {"requestId": None}])
def test_an_echo_in_the_other_spelling_of_grpc_is_read_too(other: dict[str, Any]) -> None:
    assert read_status({"accountLogin": 7, "requestId": "W1", "status": 2}, SENT).state is FeeState.SUCCESS
    with pytest.raises(UnknownOutcome, match="about another"):
        read_status({"accountLogin": "7", "requestId": "W1", "status": 2} | other, SENT)


def test_the_states_have_the_documented_numbers() -> None:
    assert {name: state.value for name, state in FeeState.__members__.items()} == {
        "PENDING": 1,
        "SUCCESS": 2,
        "ERROR": 3,
    }


UNHEARD_OF: dict[str, list[Any]] = {
    "text": ["", "²", "٢", "00002", "9" * 5000, "FEE_PROCESS_STATUS_QUEUED", "\ud800", "x" * 900_000],
    "number": [0, 4, -2, 2.5, float("inf"), float("nan"), 10**400],
    "other": [None, True, [2], {"a": 2}, DEEP],
}


@pytest.mark.parametrize("status", [pytest.param(one, id=kind) for kind, some in UNHEARD_OF.items() for one in some])
def test_an_unheard_of_status_counts_as_pending_and_is_logged(status: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = read_status(body(status=status), SENT)

    assert found.state is FeeState.PENDING
    assert "unknown status" in found.message
    assert "unknown status" in caplog.text
    assert len(found.message) <= len("unknown status ") + 100
    assert len(caplog.text) < 400
    found.message.encode()


@pytest.mark.parametrize("answer", [{"account_login": "7", "request_id": "W1"}, {"accountLogin": 7, "requestId": "W1"}])
def test_a_status_that_is_left_out_of_an_answer_about_our_run_is_0(
    answer: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """https://protobuf.dev/programming-guides/json/: a field with its default value may be left out."""
    with caplog.at_level(logging.WARNING):
        found = read_status(answer, SENT)

    assert (found.state, found.message) == (FeeState.PENDING, "unknown status 0")
    assert "unknown status 0" in caplog.text


@pytest.mark.parametrize(
    "other",
    [
        {},
        [],
        "2",
        2,
        None,
        {"account_login": "7"},
        {"requestId": "W1"},
        {"account_login": "7", "request_id": "W2"},
        {"account_login": "7", "requestId": None},
        body(account_login="8"),
        body(request_id="W2"),
        body(request_id=None),
        body(request_id=DEEP),
        body(account_login=True),
        body(account_login={}),
    ],
    ids=lambda other: str(other)[:40] if isinstance(other, str | int) else None,
)
def test_an_answer_about_something_else_is_an_unknown_outcome(other: Any) -> None:
    with pytest.raises(UnknownOutcome) as caught:
        read_status(other, SENT)

    assert caught.value.status == 200  # B2COPY did answer: such an answer counts


def test_a_login_that_comes_back_as_a_number_is_still_ours() -> None:
    assert read_status(body(account_login=7), SENT).state is FeeState.SUCCESS


def test_an_answer_without_login_and_id_is_believed() -> None:
    assert read_status({"status": 2}, SENT).state is FeeState.SUCCESS


@pytest.mark.parametrize("name", ["error", "message", "details"])
def test_the_text_of_an_error_stands_under_one_of_three_names(name: str) -> None:
    assert read_status(body(status=3, **{name: "no money"}), SENT).message == "no money"


@pytest.mark.parametrize(
    "details",
    [DEEP, "\ud800", "a\0b", "x" * 900_000, [DEEP] * 20, {"message": DEEP}, 10**400, float("inf")],
    ids=["deep", "surrogate", "NUL", "long", "deep list", "deep message", "large number", "infinity"],
)
def test_odd_details_never_spoil_a_success(details: Any) -> None:
    found = read_status(body(details=details, error=details), SENT)

    assert found.state is FeeState.SUCCESS
    found.message.encode()
    assert "\0" not in found.message
