"""What who asks for a read gets: the value, the worker's error, or an error that says what to do."""

import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.conftest import forget
from worker.errors import BadPayload, NoAnswerInTime, NotFound, RateLimited, Unavailable
from worker.instances import ledger
from worker.messages.ask_read import answers, ask
from worker.messages.sealed_answer import Seal
from worker.queues import READS
from worker.testbed.local_system import Environment

Answered = Callable[[Any], Any]


@pytest.fixture
def asked(active_environment: Environment) -> list[dict[str, Any]]:
    """The questions that the worker of `answered` has taken."""
    return []


@pytest.fixture
def answered(active_environment: Environment, asked: list[dict[str, Any]]) -> Answered:
    """Ask while something in a worker's place takes the question and posts this: JSON, or bytes as they are."""
    answers()  # made before both threads use it

    def answer_one(content: Any) -> None:
        with active_environment.broker.client as client:
            _, item = client.brpop([READS], timeout=20)
        question = json.loads(base64.b64decode(json.loads(item)["body"]))[1]
        asked.append(question)
        if not isinstance(content, bytes):
            content = Seal(question["read_id"], question["key"]).seal(json.dumps(content).encode())
        answers().post(question["read_id"], content, 5000)

    def give(content: Any) -> Any:
        with ThreadPoolExecutor(1) as worker:
            answering = worker.submit(answer_one, content)
            try:
                return ask("accounts", {"limit": 3}, 20.0)
            finally:
                answering.result(30)

    return give


@pytest.mark.parametrize("value", [[{"number": "1"}], {}, None, False], ids=str)
def test_the_value_is_returned(answered: Answered, asked: list[dict[str, Any]], value: Any) -> None:
    assert answered({"value": value}) == value

    [question] = asked
    assert question.keys() == {"name", "parameters", "read_id", "key", "ends_at", "ledger_id"}
    assert question["ledger_id"] == ledger().id
    assert (question["name"], question["parameters"]) == ("accounts", {"limit": 3})
    assert 10_000 < question["ends_at"] - answers().clock_ms() <= 20_000, "ms of Redis' clock"
    assert len(question["read_id"]) >= 20


@pytest.mark.parametrize(
    ("error", "arguments"),
    [
        (RateLimited, ["accounts", 429, "slow down", 3.5]),
        (NotFound, ["accounts", 404, None, None]),
        (BadPayload, ["limit: too large"]),
    ],
)
def test_the_workers_error_is_raised(answered: Answered, error: type[Exception], arguments: list[Any]) -> None:
    with pytest.raises(error) as caught:
        answered({"error": error.__name__, "arguments": arguments})

    assert list(caught.value.args) == arguments
    assert type(caught.value) is error


@pytest.mark.parametrize(
    "answer",
    [
        {"error": "NoSuchError", "arguments": ["x"]},
        {"error": "SettingsError", "arguments": ["x"]},
        {"error": "__doc__", "arguments": ["x"]},
        {"error": None, "arguments": ["x"]},
        {"error": "RateLimited", "arguments": "x"},
        {"error": "RateLimited", "arguments": [1, 2, 3, 4, 5, 6]},
        {},
    ],
    ids=json.dumps,
)
def test_an_error_of_another_version_is_told(answered: Answered, answer: dict[str, Any]) -> None:
    with pytest.raises(Unavailable) as caught:
        answered(answer)

    assert type(caught.value) is Unavailable
    assert str(caught.value) == f"accounts: {answer.get('error')}: {answer.get('arguments')}"


@pytest.mark.parametrize("answer", [b"garbage", b"", [1], "text", None], ids=repr)
def test_an_answer_that_cannot_be_read_is_an_error(answered: Answered, answer: Any) -> None:
    with pytest.raises(Unavailable, match="the answer cannot be read"):
        answered(answer)


@pytest.mark.parametrize("timeout_s", [0.001, 0.5, 1])
def test_who_asks_waits_as_long_as_it_said(active_environment: Environment, timeout_s: float) -> None:
    answers().clock_ms()  # connects
    began = time.monotonic()

    with pytest.raises(NoAnswerInTime):
        ask("accounts", {}, timeout_s)

    assert time.monotonic() - began >= timeout_s


@pytest.mark.parametrize("timeout_s", [True, None, "5", 0, 0.0, -1, 60.1, float("nan"), float("inf")], ids=repr)
def test_an_unusable_timeout_is_refused_before_anything_is_sent(
    active_environment: Environment, timeout_s: Any
) -> None:
    with pytest.raises(BadPayload, match=r"timeout_s: .* must be a number of seconds up to 60"):
        ask("accounts", {}, timeout_s)

    with active_environment.broker.client as client:
        assert client.llen(READS) == 0


def test_without_the_ledger_it_is_told(active_environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/crm")
    forget()

    with pytest.raises(Unavailable, match=r"^accounts: the ledger is unavailable \(OperationalError\)"):
        ask("accounts", {}, 1)

    with active_environment.broker.client as client:
        assert client.llen(READS) == 0
