"""No message ends the worker, and each becomes an operation or a stored failed message. On a real broker and worker."""

import base64
import bz2
import hashlib
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.messages.conftest import FEES, Name, problem_of, send, stored
from tests.support import until
from tests.tasks.conftest import ended
from worker.instances import ledger
from worker.ledger import search
from worker.messages.bad_message_text import EVIDENCE_LIMIT, NAME_LIMIT, bounded_ascii
from worker.operation import Operation, State
from worker.queues import UNACKED, UNACKED_INDEX
from worker.sandbox.control_client import SandboxControl
from worker.testbed.local_system import Environment

Push = Callable[[Any], None]


def envelope(body: Any, headers: Any = None, **changes: Any) -> dict[str, Any]:
    """Return what kombu puts into Redis; `body` is sent as JSON unless it is bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return {
        "body": base64.b64encode(raw).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {
            "delivery_tag": str(uuid.uuid4()),
            "body_encoding": "base64",
            "delivery_info": {"exchange": "", "routing_key": "b2copy.inbox"},
        },
    } | changes


def headers_of(message_id: str, task: str = FEES, **more: Any) -> dict[str, Any]:
    return {"lang": "js", "task": task, "id": message_id, **more}


def is_alive(fleet: Environment, crm: Any, name: Name) -> bool:
    """Whether the worker that was started first still does work, and holds no message."""
    request_id = name()
    send(crm, FEES, "7", request_id)
    done = ended(f"fees.process:{request_id}")
    with fleet.broker.client as client:
        until(lambda: not client.llen("b2copy.inbox") and not client.hlen(UNACKED))
    return done.state == State.SUCCEEDED and [process.started for process in fleet.processes] == [1]


def new_messages(before: set[str]) -> list[Operation]:
    return [found for found in search(ledger(), kind="message", limit=10_000) if found.key not in before]


def known_messages() -> set[str]:
    return {found.key for found in search(ledger(), kind="message", limit=10_000)}


@pytest.mark.parametrize(
    "body",
    [
        [],
        [[]],
        [[], {"account_login": "1"}],
        [[], {}, {}, {}],
        [[], {}, []],
        [[], {}, None],
        [[], {}, "x"],
        [{}, [], {}],
        {"args": [], "kwargs": []},
        {"args": {}, "kwargs": {}},
        {"__type__": "datetime", "__value__": "no time"},
    ],
    ids=json.dumps,
)
def test_a_body_of_another_shape_is_stored_and_the_worker_lives(
    fleet: Environment, crm: Any, push: Push, name: Name, body: Any
) -> None:
    message_id = name()
    push(envelope(body, headers_of(message_id)))

    assert problem_of(stored(message_id))
    assert is_alive(fleet, crm, name)


@pytest.mark.parametrize(
    "item",
    [
        b"",
        b"\xff\xfe\x00",
        b"not JSON",
        b"[" * 50_000,
        b"{}",
        b"[1, 2]",
        b"null",
        b'{"body": "x"}',
        b'{"properties": {"delivery_tag": ["a"]}, "body": 7}',
        b'{"properties": 7, "headers": 7}',
        json.dumps(envelope([[], {}, {}], {"id": {"__type__": "uuid", "__value__": 1}})).encode(),
        json.dumps(envelope([[], {}, {}], [["task", FEES]])).encode(),
        json.dumps(envelope([[], {}, {}], headers_of("i")) | {"body": "no base64"}).encode(),
        json.dumps(envelope([[], {}, {}], headers_of("\ud800"))).encode(),
        b'{"body": "' + b"x" * 2_000_000 + b'"}',
    ],
    ids=lambda item: repr(item[:30]),
)
def test_an_item_that_is_no_message_is_stored_and_the_worker_lives(
    fleet: Environment, crm: Any, push: Push, name: Name, item: bytes
) -> None:
    before = known_messages()
    push(item)

    [operation] = until(lambda: new_messages(before))

    assert len(json.dumps(operation.payload)) < 3 * EVIDENCE_LIMIT
    assert is_alive(fleet, crm, name)


def test_evidence_of_any_size_and_any_characters_is_stored_once(
    fleet: Environment, crm: Any, push: Push, name: Name
) -> None:
    emoji = json.dumps([[], {"note": "\U0001f600" * 6000}, {}], ensure_ascii=False).encode()
    nasty = {"account_login": "\x00\ud800\u202e", "\x00" * 1000: "x"}
    bodies = {name(): emoji, name(): json.dumps([[], nasty, {}]).encode(), name(): b"\xff\x00" * 50_000}
    for message_id, body in bodies.items():
        push(envelope(body, headers_of(message_id, "b2copy.feez.process")))

    for message_id, body in bodies.items():
        evidence = stored(message_id).payload["message"]
        assert evidence.isascii()
        assert evidence.isprintable()
        if len(body) > EVIDENCE_LIMIT:
            assert f"({len(body)} bytes, sha256 {hashlib.sha256(body).hexdigest()})" in evidence
    assert is_alive(fleet, crm, name)


def test_a_huge_argument_name_is_stored_and_leaves_short_lines_in_the_log(
    fleet: Environment, crm: Any, push: Push, name: Name
) -> None:
    [worker] = fleet.processes
    before = len(worker.current_log())
    message_id = name()
    push(envelope([[], {"x" * 700_000: 1}, {}], headers_of(message_id)))

    assert len(problem_of(stored(message_id))) < 700
    assert len(worker.current_log()) - before < 20_000


def test_an_id_is_stored_as_it_is_up_to_its_limit(push: Push, name: Name) -> None:
    message_id = name().ljust(NAME_LIMIT, "é")

    push(envelope("no arguments", headers_of(message_id)))
    push(envelope("no arguments", headers_of(f"{message_id}é")))

    assert ended(f"message:{message_id}").state == State.FAILED
    cut = bounded_ascii(f"{message_id}é", NAME_LIMIT)
    assert ended(f"message:{cut}").state == State.FAILED


def test_two_messages_with_one_id_are_both_stored(crm: Any, push: Push, name: Name) -> None:
    message_id, before = name(), known_messages()
    for value in ("one", "two", "two"):
        push(envelope([[], {"account": value}, {}], headers_of(message_id)))

    found = until(lambda: found if len(found := new_messages(before)) == 2 else None)

    assert found is not None
    assert {json.loads(operation.payload["message"])["kwargs"]["account"] for operation in found} == {"one", "two"}
    assert f"message:{message_id}" in {operation.key for operation in found}


def test_a_compressed_message_is_not_unpacked(fleet: Environment, crm: Any, push: Push, name: Name) -> None:
    [worker] = fleet.processes
    message_id = name()
    bomb = bz2.compress(b" " * (300 << 20))
    push(envelope(bomb, headers_of(message_id, compression="application/x-bz2")))

    assert "without compression" in problem_of(stored(message_id))
    peak = next(line for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines() if "VmHWM" in line)
    assert int(peak.split()[1]) < 250_000, "kilobytes"


@pytest.mark.parametrize("follow_up", ["callbacks", "errbacks", "chain", "chord"])
def test_a_message_does_not_make_us_publish(
    fleet: Environment, control: SandboxControl, push: Push, name: Name, follow_up: str
) -> None:
    signature = {"task": "crm.payout", "args": ["IBAN", "1000000"], "kwargs": {}, "options": {"queue": "celery"}}
    message_id, request_id = name(), name()
    options = {follow_up: signature if follow_up == "chord" else [signature]}
    push(envelope([["7", request_id], {}, options], headers_of(message_id, reply_to="celery", group="g")))

    assert follow_up in problem_of(stored(message_id))
    assert control.effects("fees.process", f"7/{request_id}") == []
    with fleet.broker.client as client:
        assert client.llen("celery") == 0


@pytest.mark.parametrize("task", ["celery.group", "celery.chain", "celery.map", "celery.backend_cleanup"])
def test_celerys_own_tasks_are_not_run_for_anybody(crm: Any, name: Name, task: str) -> None:
    signature = {"task": "crm.payout", "args": [], "kwargs": {}, "options": {"queue": "celery"}}

    assert "there is no task" in problem_of(stored(send(crm, task, signature)))


@pytest.mark.parametrize(
    ("task", "args"),
    [
        ("b2copy.push", ["ledger"]),
        ("b2copy.push", ["ledger", "no lane"]),
        ("b2copy.push", ["ledger", ["money"]]),
        ("b2copy.session.refresh", ["x"]),
        ("b2copy.message.store", ["id", "task", "problem", None, "raw"]),
    ],
    ids=str,
)
def test_an_internal_task_of_a_stranger_with_wrong_arguments_is_stored(
    fleet: Environment, crm: Any, name: Name, task: str, args: list[Any]
) -> None:
    assert task in problem_of(stored(send(crm, task, *args)))
    assert is_alive(fleet, crm, name)


def test_internal_tasks_of_a_stranger_do_no_harm(fleet: Environment, crm: Any, name: Name) -> None:
    for _ in range(20):
        send(crm, "b2copy.push", ledger().id, "money")
        send(crm, "b2copy.ledger.dispatch")
        send(crm, "b2copy.session.refresh")

    assert is_alive(fleet, crm, name)


@pytest.mark.parametrize("expires", ["soon", 5, "9999-99-99T00:00:00"], ids=str)
def test_an_expiry_that_cannot_be_read_is_stored(push: Push, name: Name, expires: Any) -> None:
    message_id = name()
    push(envelope([["7", name()], {}, {}], headers_of(message_id, expires=expires)))

    assert "expires" in problem_of(stored(message_id))


def test_an_expired_message_is_stored_and_one_that_is_still_wanted_is_recorded(
    crm: Any, control: SandboxControl, name: Name
) -> None:
    late, in_time = name(), name()
    message_id = send(crm, FEES, "7", late, expires=datetime.now(UTC) - timedelta(seconds=5))
    send(crm, FEES, "7", in_time, expires=60)

    assert "expired" in problem_of(stored(message_id))
    assert ended(f"fees.process:{in_time}").state == State.SUCCEEDED
    assert control.effects("fees.process", f"7/{late}") == []


def test_a_note_of_a_delivery_that_is_not_kombus_is_stored(fleet: Environment, crm: Any, name: Name) -> None:
    before = known_messages()
    with fleet.broker.client as client:
        client.hset(UNACKED, "evil", "garbage")
        client.zadd(UNACKED_INDEX, {"evil": 1})
        client.hset(UNACKED, "evil too", '[{"body": 7}, "x", ["y"]]')
        client.zadd(UNACKED_INDEX, {"evil too": 1})

    found = until(lambda: found if len(found := new_messages(before)) == 2 else None)

    assert found is not None
    assert {operation.payload["message"] for operation in found} == {"garbage", '[{"body": 7}, "x", ["y"]]'}
    assert is_alive(fleet, crm, name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=8,
)
task_names = st.sampled_from([FEES, "b2copy.call", "b2copy.push", "celery.chain", "b2copy.nonsense"])
# No valid value: the same operation twice would be one, and the items could not be counted.
bad_values = st.none() | st.lists(json_values, max_size=2) | st.text(max_size=9).map(lambda text: f"{text} ")
plausible_bodies = st.tuples(
    st.lists(bad_values, max_size=3), st.dictionaries(st.sampled_from(["account_login", "request_id"]), bad_values)
).flatmap(lambda pair: st.lists(json_values, max_size=2).map(lambda rest: [*pair, *rest]))
known_headers = st.fixed_dictionaries(
    {},
    optional={
        "task": task_names | json_values,
        "id": st.uuids().map(str) | json_values.filter(lambda value: not isinstance(value, str)),
        **dict.fromkeys(
            ["eta", "expires", "compression", "timelimit", "retries", "shadow", "origin", "group", "stamps"],
            json_values | st.text(max_size=10),
        ),
    },
)
bodies = st.one_of(
    (json_values | plausible_bodies).map(lambda body: base64.b64encode(json.dumps(body).encode()).decode()),
    st.binary(max_size=50).map(lambda body: base64.b64encode(body).decode()),
    json_values,
)
items = st.one_of(
    st.binary(max_size=60),
    json_values.map(json.dumps).map(str.encode),
    st.fixed_dictionaries(
        {"body": bodies, "headers": known_headers | json_values},
        optional={
            "content-type": st.sampled_from(["application/json", "application/x-python-serialize", "text/plain"])
            | json_values,
            "content-encoding": st.sampled_from(["utf-8", "binary", "latin-1", "no such"]) | json_values,
            "properties": json_values
            | st.fixed_dictionaries(
                {},
                optional={
                    "delivery_tag": st.text(max_size=10) | json_values,
                    "body_encoding": st.sampled_from(["base64", "utf-8", "hex"]) | json_values,
                    "delivery_info": json_values,
                    "priority": json_values,
                    "correlation_id": json_values,
                },
            ),
        },
    ).map(lambda item: json.dumps(item).encode()),
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch=st.lists(items, min_size=10, max_size=40))
def test_whatever_is_in_the_inbox_the_worker_lives_and_every_item_is_accounted_for(
    fleet: Environment, batch: list[bytes]
) -> None:
    batch, before = [with_new_id(item) for item in batch], count_operations()
    # Each batch ends with a message of its own, so that its operation says that the batch was read.
    last = uuid.uuid4().hex
    with fleet.broker.client as client:
        client.lpush("b2copy.inbox", *batch, json.dumps(envelope([["7", last], {}, {}], headers_of(last))))
        until(lambda: not client.llen("b2copy.inbox") and not client.hlen(UNACKED))

    assert ended(f"fees.process:{last}").state == State.SUCCEEDED
    assert count_operations() - before == len(batch) + 1
    assert [process.started for process in fleet.processes] == [1]


def with_new_id(item: bytes) -> bytes:
    """Replace the id of a message, because two equal messages with one id are stored once."""
    try:
        headers = json.loads(item)["headers"]
        if not isinstance(headers["id"], str):
            return item
    except Exception:
        return item
    headers["id"] = str(uuid.uuid4())
    return json.dumps({**json.loads(item), "headers": headers}).encode()


def count_operations() -> int:
    return len(search(ledger(), limit=100_000))
