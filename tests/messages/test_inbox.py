"""Messages from anywhere: what can be done is done once, what cannot be is visible."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.messages.conftest import FEES, Name, Publish, problem_of, send, stored
from tests.support import until
from tests.tasks.conftest import ended
from worker.instances import ledger
from worker.ledger import attempts_of, search
from worker.operation import FailureReason, Operation, State
from worker.queues import UNACKED
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment
from worker.testbed.processes import clean_environment

UPDATE = "/api/admin/clients/v2/client/clientservice/update"

FOREIGN = """
import sys
from celery import Celery

app = Celery(broker=sys.argv[1])
for _ in range(2):
    sent = app.send_task(
        "b2copy.fees.process", kwargs={"account_login": "7", "request_id": sys.argv[2]}, queue="b2copy.inbox"
    )
assert not [name for name in sys.modules if name.split(".")[0] in {"worker", "tasks"}]
"""


def test_a_script_that_imports_nothing_of_ours_has_fees_run_and_sent_twice_they_run_once(
    fleet: Environment, control: SandboxControl, name: Name, tmp_path: Path
) -> None:
    request_id = name()
    script = tmp_path / "crm.py"
    script.write_text(FOREIGN)
    command = [sys.executable, "-I", str(script), fleet.broker.url, request_id]
    subprocess.run(command, check=True, timeout=30, cwd=tmp_path, env=clean_environment())

    done = ended(f"fees.process:{request_id}")

    assert done.state is State.SUCCEEDED
    assert done.requested_by.startswith("message from ")
    [effect] = control.effects("fees.process", f"7/{request_id}")
    assert effect["times"] == 1


def test_arguments_may_come_by_position(crm: Any, name: Name) -> None:
    request_id = name()
    send(crm, FEES, "7", request_id)

    assert ended(f"fees.process:{request_id}").payload == {"account_login": "7", "request_id": request_id}


def test_a_message_of_the_first_protocol_is_understood(publish: Publish, name: Name) -> None:
    request_id = name()
    publish({"task": FEES, "id": name(), "args": ["7", request_id], "kwargs": {}}, {})

    assert ended(f"fees.process:{request_id}").state is State.SUCCEEDED


def test_a_call_is_made(crm: Any, control: SandboxControl, name: Name) -> None:
    key = name()
    send(crm, "b2copy.call", kwargs={"path": UPDATE, "payload": {"id": key}, "key": key})

    done = ended(f"call:{key}")

    assert (done.state, done.result) == (State.SUCCEEDED, {"id": key})
    assert [effect["times"] for effect in control.effects("call") if effect["body"] == {"id": key}] == [1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "account_login is missing; request_id is missing"),
        ({"account_login": "7"}, "request_id is missing"),
        ({"account_login": "7", "request_id": "W", "amount": "1"}, "amount is not a field"),
        ({"account": "7", "request_id": "W"}, "there are account_login, request_id"),
        ({"account_login": "", "request_id": "W"}, "account_login"),
        ({"account_login": "7", "request_id": "two words"}, "request_id"),
        ({"account_login": "7", "request_id": "W" * 1000}, "request_id"),
        ({"account_login": ["7"], "request_id": "W"}, "account_login"),
        ({"account_login": None, "request_id": "W"}, "account_login"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else None,
)
def test_wrong_arguments_are_stored_and_say_what_is_wrong(crm: Any, arguments: dict[str, Any], message: str) -> None:
    operation = stored(send(crm, kwargs=arguments))

    assert message in problem_of(operation)
    assert operation.payload["task"] == FEES
    assert json.loads(operation.payload["message"])["kwargs"] == arguments


def test_too_many_or_doubled_arguments_are_stored(crm: Any) -> None:
    assert "3 arguments for 2 fields" in problem_of(stored(send(crm, FEES, "7", "W", "x")))
    assert "account_login given twice" in problem_of(stored(send(crm, FEES, "7", kwargs={"account_login": "8"})))


def test_the_same_id_with_other_data_is_stored_and_tells_no_value_of_the_first(
    crm: Any, control: SandboxControl, name: Name
) -> None:
    request_id = name()
    send(crm, FEES, "7", request_id)
    ended(f"fees.process:{request_id}")

    message = problem_of(stored(send(crm, FEES, "8", request_id)))

    assert "exists with another account_login" in message
    assert '"7"' not in message
    assert control.effects("fees.process", f"8/{request_id}") == []


def test_an_unknown_task_is_stored(crm: Any) -> None:
    operation = stored(send(crm, "b2copy.nonsense", kwargs={"a": 1}))

    assert "b2copy.nonsense" in problem_of(operation)
    assert '{"a": 1}' in operation.payload["message"]


def test_a_pickle_is_stored_and_never_opened(crm: Any, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    operation = stored(send(crm, FEES, Bomb(), serializer="pickle"))

    assert "pickle" in problem_of(operation)
    assert not (tmp_path / "exploded").exists()


def test_a_message_with_an_eta_is_stored_as_failed_and_not_sent_later(crm: Any, name: Name) -> None:
    assert "countdown" in problem_of(stored(send(crm, FEES, "7", name(), countdown=3600)))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{nope", "decoded"),
        ("", "list of arguments"),
        ("null", "list of arguments"),
        ("7", "list of arguments"),
        ("[]", "list of arguments"),
        ("[1]", "list of arguments"),
        ('["a", "b", "c"]', "list of arguments"),
        ("[{}, [], {}]", "list of arguments"),
        ('{"x": 1}', "list of arguments"),
        ("[" * 100_000, "decoded"),
    ],
    ids=lambda value: value[:12],
)
def test_a_body_that_holds_no_arguments_is_stored(publish: Publish, name: Name, body: str, message: str) -> None:
    message_id = name()
    publish(body, {"task": FEES, "id": message_id}, content_type="application/json", content_encoding="utf-8")

    assert message in problem_of(stored(message_id))


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, {"x": 1}),
        ({}, "text"),
        ({}, [1]),
        ({"task": FEES}, [[], {}, {}]),
        ({"task": ["x"], "id": "x"}, [[], {}, {}]),
        ({"task": FEES, "id": 7}, [[], {}, {}]),
    ],
    ids=str,
)
def test_what_is_no_task_message_at_all_is_stored(
    fleet: Environment, publish: Publish, headers: dict[str, Any], body: Any
) -> None:
    before = {operation.key for operation in messages()}
    publish(body, headers)

    [new] = until(lambda: [operation for operation in messages() if operation.key not in before])

    assert new.failure_reason == FailureReason.BAD_PAYLOAD


def messages() -> list[Operation]:
    return search(ledger(), kind="message", limit=10_000)


def test_another_ledgers_wake_up_is_refused_loudly(fleet: Environment, crm: Any) -> None:
    [worker] = fleet.processes
    crm.send_task("b2copy.push", kwargs={"ledger_id": "theirs", "lane": "money"}, queue="b2copy.money")

    until(lambda: "CRITICAL" in worker.current_log())

    assert "another ledger (theirs; ours is " in worker.current_log()
    assert "B2COPY_REDIS_URL" in worker.current_log()


def test_a_stored_message_is_not_attempted_and_the_queue_is_empty(fleet: Environment, crm: Any) -> None:
    operation = stored(send(crm, "b2copy.nonsense"))

    assert attempts_of(ledger(), operation.id) == []
    with fleet.broker.client as client:
        until(lambda: not client.llen("b2copy.inbox") and not client.hlen(UNACKED))


def test_after_all_this_the_worker_never_died_and_takes_as_much_as_before(
    fleet: Environment, crm: Any, name: Name
) -> None:
    ids = [name() for _ in range(50)]
    for request_id in ids:
        send(crm, FEES, "7", request_id)

    assert {ended(f"fees.process:{request_id}").state for request_id in ids} == {State.SUCCEEDED}
    assert [process.started for process in fleet.processes] == [1]
