"""What becomes of a message that a worker takes in: an operation, a failed message, a row for dispatch, or it returns.

In this process, on a real ledger and broker. `test_inbox` proves the same through a worker.
"""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery.app.task import Context
from celery.exceptions import Reject
from prometheus_client import REGISTRY
from sqlalchemy import text

from tests.conftest import forget
from tests.operations import find_operation
from worker.instances import ledger
from worker.ledger import DATABASE_UNAVAILABLE_ERRORS, search
from worker.messages import inbox, wake_up
from worker.messages.inbox import store_failed, take_in
from worker.operation import FailureReason, State
from worker.settings import crm_settings
from worker.testbed.local_system import Environment

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RESULTS = ("recorded", "known", "refused", "left", "returned")


@pytest.fixture(autouse=True)
def system(active_environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setattr(inbox, "PATIENCE_S", 0.0)
    monkeypatch.setattr(inbox, "_RETURN_PAUSE_S", 0.0)
    monkeypatch.setattr(wake_up, "_sent_at", {})
    return active_environment


@pytest.fixture
def counted() -> Callable[[], dict[str, int]]:
    """Returns how many messages were counted since the test began, by result."""

    def now() -> dict[str, float]:
        return {one: REGISTRY.get_sample_value("b2copy_inbox_messages_total", {"result": one}) or 0 for one in RESULTS}

    before = now()
    return lambda: {one: int(count - before[one]) for one, count in now().items() if count != before[one]}


@pytest.fixture
def statement() -> Callable[[str], list[Any]]:
    def run(sql: str) -> list[Any]:
        with ledger().writing() as connection:
            result = connection.execute(text(sql))
            return list(map(tuple, result)) if result.returns_rows else []

    return run


def give(*args: Any, kind: str = "fees.process", message_id: str = "m1", **kwargs: Any) -> None:
    from tasks.registry import KINDS

    request = Context(id=message_id, task=f"b2copy.{kind}", origin="crm@host", traceparent=TRACE)
    take_in(KINDS[kind], request, args, kwargs)


def wake_ups(system: Environment, lane: str = "money") -> int:
    with system.broker.client as client:
        return int(client.llen(f"b2copy.{lane}"))


FAULT = "CREATE TRIGGER fault BEFORE INSERT ON {} {} BEGIN SELECT RAISE(ABORT, 'a fault of ours'); END"
"""A fault of ours, as far as the inbox can see: the database is there and refuses a row."""


def test_a_message_becomes_an_operation_and_wakes_its_lane(
    system: Environment, counted: Callable[[], dict[str, int]]
) -> None:
    give("7", request_id="W1")

    found = find_operation(ledger(), "W1")
    assert (found.state, found.payload) == (State.QUEUED, {"account_login": "7", "request_id": "W1"})
    assert (found.requested_by, found.trace_id) == ("message from crm@host", TRACE)
    assert wake_ups(system) == 1
    assert counted() == {"recorded": 1}

    give("7", "W1")

    assert len(search(ledger())) == 1
    assert counted() == {"recorded": 1, "known": 1}


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        (["7"], {}, "request_id is missing"),
        (["7", "W1", "x"], {}, "fees.process: 3 arguments for 2 fields: account_login, request_id"),
        (["7"], {"account_login": "8", "request_id": "W1"}, "fees.process: account_login given twice"),
    ],
)
def test_a_wrong_message_becomes_a_failed_one_at_once(
    system: Environment, counted: Callable[[], dict[str, int]], args: list[Any], kwargs: dict[str, Any], problem: str
) -> None:
    give(*args, **kwargs)

    [stored] = search(ledger())
    assert (stored.key, stored.state, stored.failure_reason) == ("message:m1", State.FAILED, FailureReason.BAD_PAYLOAD)
    assert stored.requested_by == "message from crm@host"
    assert stored.payload["task"] == "b2copy.fees.process"
    assert json.loads(stored.payload["message"]) == {"args": args, "kwargs": kwargs}
    assert problem in (stored.result or {})["error"]
    assert wake_ups(system) == 0
    assert counted() == {"refused": 1}


def test_another_payload_under_a_known_key_is_refused_without_its_values() -> None:
    give("70001", "W1")

    give("80002", "W1", message_id="m2")

    stored = find_operation(ledger(), "m2", "message")
    problem = (stored.result or {})["error"]
    assert "exists with another account_login" in problem
    assert "70001" not in problem
    assert find_operation(ledger(), "W1").payload["account_login"] == "70001"


def test_a_fault_of_ours_leaves_the_message_to_dispatch(
    system: Environment, counted: Callable[[], dict[str, int]], statement: Callable[[str], list[Any]]
) -> None:
    statement(FAULT.format("b2copy_operations", ""))

    give("7", request_id="W1")

    [(kind, payload, by, trace)] = statement("SELECT kind, payload, requested_by, trace_id FROM b2copy_requests")
    assert (kind, by) == ("fees.process", "message from crm@host")
    assert json.loads(payload) == {"account_login": "7", "request_id": "W1"}
    assert TRACE.split("-")[1] in trace
    assert counted() == {"left": 1}


def test_a_call_whose_path_this_worker_does_not_list_is_left_to_dispatch(
    counted: Callable[[], dict[str, int]], statement: Callable[[str], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while B2COPY_CALL_PATHS is changed: another worker may list the path already."""
    fields: dict[str, Any] = {"path": "/api/admin/clients/v2/client/clientservice/update", "payload": {}, "key": "K1"}
    monkeypatch.setenv("B2COPY_CALL_PATHS", "/api/admin/fees/*")
    crm_settings.cache_clear()

    give(kind="call", **fields)

    [(kind, payload)] = statement("SELECT kind, payload FROM b2copy_requests")
    assert (kind, json.loads(payload)) == ("call", fields)
    assert search(ledger()) == []
    assert counted() == {"left": 1}


def test_if_dispatch_cannot_have_it_either_it_becomes_a_failed_message(
    counted: Callable[[], dict[str, int]], statement: Callable[[str], list[Any]]
) -> None:
    statement(FAULT.format("b2copy_operations", "WHEN NEW.kind <> 'message'"))
    statement(FAULT.replace("fault B", "other B").format("b2copy_requests", ""))

    give("7", "W1")

    [stored] = search(ledger())
    assert stored.key == "message:m1"
    assert "a fault of ours" in (stored.result or {})["error"]
    assert json.loads(stored.payload["message"]) == {"args": ["7", "W1"], "kwargs": {}}
    assert counted() == {"refused": 1}


def test_a_message_returns_to_its_queue_if_nothing_of_it_can_be_stored(
    counted: Callable[[], dict[str, int]], statement: Callable[[str], list[Any]]
) -> None:
    statement(FAULT.format("b2copy_operations", ""))
    statement(FAULT.replace("fault B", "other B").format("b2copy_requests", ""))

    with pytest.raises(Reject) as caught:
        give("7", "W1")

    assert caught.value.requeue
    assert counted() == {"returned": 1}


@pytest.mark.parametrize(
    "take",
    [
        lambda: give("7", "W1"),
        lambda: give("7"),
        lambda: inbox.store("m1", "t", "wrong", None, "raw"),
    ],
    ids=["an operation", "a wrong message", "one that the consumer refuses"],
)
def test_a_message_returns_to_its_queue_while_the_ledger_is_unavailable(
    counted: Callable[[], dict[str, int]], monkeypatch: pytest.MonkeyPatch, take: Callable[[], None]
) -> None:
    monkeypatch.setenv("B2COPY_DATABASE_URL", "postgresql://crm@127.0.0.1:1/crm")
    monkeypatch.setattr(inbox, "_RETURN_PAUSE_S", 0.2)
    forget()
    began = time.monotonic()

    with pytest.raises(Reject) as caught:
        take()

    assert caught.value.requeue
    assert counted() == {"returned": 1}
    assert time.monotonic() - began >= 0.2  # it comes back at once, so it must not go back at once


@pytest.mark.parametrize("how", ["recorded", "left", "refused"])
def test_the_log_says_when_an_outage_of_the_ledger_is_over(
    system: Environment, statement: Callable[[str], list[Any]], caplog: pytest.LogCaptureFixture, how: str
) -> None:
    if how == "left":
        statement(FAULT.format("b2copy_operations", ""))
    inbox._outage.failed(ConnectionError("gone"))

    give("7", *(["W1"] if how != "refused" else []))

    assert "it works again after" in caplog.text


def test_the_inbox_waits_for_a_ledger_that_is_gone_for_a_moment(
    system: Environment, counted: Callable[[], dict[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "PATIENCE_S", 20.0)
    monkeypatch.setattr(inbox, "_RETRY_S", 0.01)
    tries = []

    def works_the_third_time() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise DATABASE_UNAVAILABLE_ERRORS[0]("SELECT 1", {}, Exception("gone"))
        return "done"

    assert inbox._with_patience(works_the_third_time) == "done"
    with pytest.raises(ValueError, match="ours"):
        inbox._with_patience(lambda: int("ours"))


def test_two_messages_with_one_id_are_both_kept_and_the_same_one_once(counted: Callable[[], dict[str, int]]) -> None:
    for raw in ("one", "two", "one", "two"):
        assert store_failed("m1", "t", "wrong", "crm", raw)

    found = {stored.key: stored for stored in search(ledger())}
    assert len(found) == 2
    assert found.pop("message:m1").payload == {"task": "t", "message": "one"}
    [(key, other)] = found.items()
    assert key.startswith("message:m1:")
    assert len(key) == len("message:m1:") + 16
    assert (other.payload, other.requested_by) == ({"task": "t", "message": "two"}, "message from crm")
    assert counted() == {"refused": 4}


@pytest.mark.parametrize(
    ("message_id", "key"),
    [("x" * 150, "x" * 150), ("x" * 151, "x" * 150 + " ... (151 bytes"), ("a\nb", "a\\nb"), ("é", "é")],
    ids=lambda value: repr(value)[-12:],
)
def test_an_id_of_any_length_and_any_characters_becomes_a_key(message_id: str, key: str) -> None:
    assert store_failed(message_id, "t", "wrong", None, "raw")

    [stored] = search(ledger())
    assert stored.key.startswith(f"message:{key}")
    assert len(stored.key) < 300
    assert stored.requested_by == "message from unknown"


def test_a_message_whose_evidence_the_ledger_refuses_is_stored_without_it(
    counted: Callable[[], dict[str, int]], statement: Callable[[str], list[Any]]
) -> None:
    statement(FAULT.format("b2copy_operations", "WHEN NEW.payload LIKE '%poison%'"))

    assert store_failed("m1", "t", "wrong", "crm", "poison")

    [stored] = search(ledger())
    digest = stored.key.removeprefix("message:")
    assert len(digest) == 64
    assert stored.payload == {"task": "unknown", "message": f"sha256 {digest}"}
    assert (stored.result or {})["error"] == "neither it nor its evidence can be stored"
    assert counted() == {"refused": 1}
