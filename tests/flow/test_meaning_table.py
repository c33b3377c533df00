"""One table says what each outcome and each error means."""

import inspect

import pytest

from worker import errors
from worker.errors import (
    AccessRejected,
    B2CopyError,
    BadPayload,
    CircuitOpen,
    CredentialsRejected,
    LeaseTooShort,
    NoSeamlessUrl,
    OtherLoginUnavailable,
    PermitRefused,
    RateLimited,
    ReadExpired,
    Rejected,
    SessionUnavailable,
    SettingsError,
    Unavailable,
    UnknownOutcome,
)
from worker.flow.meaning_table import TABLE, Becomes, Counted, Meaning, meaning_of
from worker.operation import Done, Failed, Later, Pending, WaitReason

ERROR_CLASSES = {
    name: error for name, error in inspect.getmembers(errors, inspect.isclass) if issubclass(error, Exception)
}
ROWS = dict(TABLE)

# Base classes that nobody raises, and errors that reach people or callers and never an attempt.
WITHOUT_A_ROW = {"B2CopyError", "Transient", "GateClosed", "Permanent", "NotAllowed"}


def rows_of(name: str) -> list[str]:
    return [row for row in ROWS if name in row.replace(",", " ").split()]


@pytest.mark.parametrize("name", sorted(ERROR_CLASSES.keys() - WITHOUT_A_ROW))
def test_every_error_has_a_row_and_means_what_the_row_says(name: str) -> None:
    error = ERROR_CLASSES[name]
    named = rows_of(name) or rows_of(error.__mro__[1].__name__)
    assert named, f"{name} has no row in TABLE"

    examples = (
        [error("x", status) for status in (None, 418, 500, 503)] if issubclass(error, B2CopyError) else [error("x")]
    )
    for example in examples:
        meaning = meaning_of(example)
        assert meaning in [ROWS[row] for row in named]
        assert meaning.becomes is not Becomes.INTERNAL


@pytest.mark.parametrize(
    ("error", "row"),
    [
        (Unavailable("x"), "Unavailable, not sent"),
        *[
            (Unavailable("x", status), "Unavailable, 307/308/407/408/421/425/503")
            for status in (307, 308, 407, 408, 421, 425, 503)
        ],
        *[(Unavailable("x", status), "Unavailable, another status (from B2COPY a 5xx)") for status in (500, 502, 504)],
        (UnknownOutcome("x"), "UnknownOutcome, no status"),
        *[(UnknownOutcome("x", status), "UnknownOutcome, with a status") for status in (200, 418)],
    ],
    ids=str,
)
def test_the_status_of_an_error_chooses_between_its_rows(error: B2CopyError, row: str) -> None:
    assert meaning_of(error) is ROWS[row]


@pytest.mark.parametrize("outcome", [Done(), Pending(), Later(1.0)])
def test_every_outcome_has_a_row(outcome: Done | Pending | Later) -> None:
    assert meaning_of(outcome) is ROWS[type(outcome).__name__]


def test_a_failure_that_the_kind_names_is_stored_under_that_name() -> None:
    assert meaning_of(Failed("fee_error")) == Meaning(
        "fee_error", Becomes.FAILED, circuit="success", login="success", outcome="known"
    )


def test_the_stored_words_are_unique_and_are_no_python_class_names() -> None:
    words = [meaning.word for meaning in ROWS.values()]

    assert len(set(words)) == len(words)
    assert not {word.lower() for word in words} & {name.lower() for name in ERROR_CLASSES} - {"rejected", "conflict"}
    assert all(word == word.lower() and " " not in word for word in words)


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("x"), OSError("x")])
def test_any_other_error_is_our_own_fault(error: Exception) -> None:
    assert meaning_of(error) is ROWS["any other error"]


@pytest.mark.parametrize("status", [307, 308, 407, 408, 421, 425, 503])
def test_a_server_that_has_not_processed_a_request_leaves_nothing_unknown(status: int) -> None:
    assert meaning_of(Unavailable("x", status)).outcome == "as_before"


@pytest.mark.parametrize("error", [Unavailable("x", 500), Unavailable("x", 502), UnknownOutcome("x")])
def test_a_request_without_a_whole_answer_leaves_its_outcome_unknown(error: Exception) -> None:
    meaning = meaning_of(error)

    assert (meaning.outcome, meaning.becomes, meaning.circuit) == ("unknown", Becomes.BY_ON_UNKNOWN, "failure")
    assert meaning.may_have_left


@pytest.mark.parametrize(
    "error",
    [
        CredentialsRejected("x"), SessionUnavailable("x"), OtherLoginUnavailable("x"), NoSeamlessUrl("x"),
        SettingsError("x"), Unavailable("x"), BadPayload("x"), CircuitOpen("x"), PermitRefused("x"), LeaseTooShort("x"),
        ReadExpired("x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_what_was_never_sent_may_still_be_cancelled(error: Exception) -> None:
    assert not meaning_of(error).may_have_left


def test_a_refused_access_proves_that_the_login_works() -> None:
    meaning = meaning_of(AccessRejected("x", 403))

    assert (meaning.login, meaning.circuit, meaning.wait_reason) == ("success", "failure", WaitReason.NO_ACCESS)
    assert meaning.counted is Counted.IF_OTHERS_ARE_SERVED


def test_a_login_that_fails_says_nothing_about_the_destination() -> None:
    for error in (CredentialsRejected("x"), SessionUnavailable("x"), SettingsError("x")):
        assert (meaning_of(error).login, meaning_of(error).circuit) == ("failure", None)


def test_another_login_or_the_shared_secret_says_nothing_about_the_service_admins_login() -> None:
    for error in (OtherLoginUnavailable("x"), NoSeamlessUrl("x", 403)):
        assert (meaning_of(error).login, meaning_of(error).circuit) == (None, None)


def test_an_answer_about_one_operation_closes_a_circuit_and_a_429_does_not() -> None:
    assert meaning_of(Rejected("x", 422)).circuit == "success"
    assert meaning_of(RateLimited("x", 429)).circuit is None
