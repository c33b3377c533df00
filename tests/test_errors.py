"""The error tree: sorted by what to do, safe to pickle, silent about secrets."""

import inspect
import pickle

import pytest

from worker import errors
from worker.errors import B2CopyError, BadPayload, Permanent, Transient

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]
FROM_B2COPY = [kind for kind in ALL if issubclass(kind, B2CopyError)]


@pytest.mark.parametrize("kind", FROM_B2COPY)
def test_what_happened_between_us_and_b2copy_survives_pickling(kind: type[B2CopyError]) -> None:
    error = pickle.loads(pickle.dumps(kind("the call", 429, "slow down", 7.0)))

    assert type(error) is kind
    assert (error.message, error.status, error.server_message, error.retry_after) == ("the call", 429, "slow down", 7.0)
    assert str(error) == "the call (HTTP 429): slow down"


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in FROM_B2COPY])
def test_every_other_error_survives_pickling(kind: type[Exception]) -> None:
    error = pickle.loads(pickle.dumps(kind("what and why")))

    assert type(error) is kind
    assert str(error) == "what and why"


def test_an_error_says_no_more_than_it_knows() -> None:
    assert str(B2CopyError("the call")) == "the call"
    assert str(B2CopyError("the call", 503)) == "the call (HTTP 503)"


def test_each_has_one_answer_to_what_to_do() -> None:
    for kind in FROM_B2COPY:
        assert not (issubclass(kind, Transient) and issubclass(kind, Permanent))


def test_a_bad_payload_is_the_callers_mistake() -> None:
    assert issubclass(BadPayload, ValueError)


@pytest.mark.parametrize("kind", ALL)
def test_each_is_explained(kind: type[Exception]) -> None:
    assert kind.__doc__
    assert kind.__name__ in str(errors.__doc__)
