"""What the consumer gives to Celery for a message: a plain form of it, or the call that stores it. In this process."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.worker.consumer import Consumer
from prometheus_client import REGISTRY

from tests.messages.delivered import BODY, FEES, Delivered
from worker.beat_schedule import schedule
from worker.instances import ledger
from worker.ledger import search
from worker.messages.consumer import CheckingConsumer
from worker.messages.safe_envelope import UNUSABLE
from worker.testbed.local_system import Environment

STORE = "b2copy.message.store"


class Taken:
    """A consumer whose Celery only notes which messages it is given."""

    def __init__(self, app: Any, patch: pytest.MonkeyPatch) -> None:
        self.messages: list[Any] = []
        patch.setattr(Consumer, "create_task_handler", lambda _self: self.messages.append)
        self.consumer = CheckingConsumer.__new__(CheckingConsumer)
        self.consumer.app, self.consumer.connection_errors = app, (ConnectionError, KeyError)

    def give(self, message: Delivered) -> Delivered:
        self.consumer.create_task_handler()(message)
        return message

    def stored(self, message: Delivered) -> dict[str, Any]:
        """Give a message that is wrong. Returns the arguments of the call that stores it."""
        self.give(message)
        assert (self.messages, message.noted) == ([message], [])
        assert message.headers["task"] == STORE
        [args, kwargs, options] = json.loads(message.body)
        assert (args, options) == ([], {})
        return dict(kwargs)


@pytest.fixture
def celery(active_environment: Environment) -> Iterator[Taken]:
    from worker.app import app  # reads the settings, which the fixtures have made

    app.loader.import_default_modules()
    with pytest.MonkeyPatch.context() as patch:
        yield Taken(app, patch)


def test_a_message_of_ours_reaches_celery_in_a_plain_form(celery: Taken) -> None:
    message = celery.give(
        Delivered(
            headers={"traceparent": "00-1", "lang": "js", "retries": 3, "timelimit": [1, 1], "reply_to": "x"},
            properties={"reply_to": "celery", "correlation_id": "theirs", "priority": 9},
        )
    )

    assert (celery.messages, message.noted) == ([message], [])
    assert message.headers == {"lang": "py", "task": FEES, "id": "m1", "origin": "crm@host", "traceparent": "00-1"}
    assert message.properties == {"correlation_id": "m1"}
    assert json.loads(message.body) == [["7"], {"request_id": "W1"}, {}]
    assert (message.content_type, message.content_encoding) == ("application/json", "utf-8")


def test_a_worker_neither_gossips_nor_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mingle costs a second at the start. While Redis is frozen, the heartbeat prevents a worker from ending."""
    given: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Consumer, "__init__", lambda _self, *args, **options: given.append((args, options)))
    alone = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}

    CheckingConsumer("a", worker_options={"autoscale": None, "without_gossip": False}, pool=7)
    CheckingConsumer()

    assert given == [
        (("a",), {"worker_options": {"autoscale": None, **alone}, "pool": 7}),
        ((), {"worker_options": alone}),
    ]


def test_a_message_is_acknowledged_only_when_the_ledger_has_it(celery: Taken) -> None:
    tasks = celery.consumer.app.tasks

    for name in (FEES, "b2copy.call", STORE):
        assert tasks[name].acks_late
        assert tasks[name].reject_on_worker_lost, "it is delivered again if the pool's process dies meanwhile"


def test_a_message_without_a_trace_gets_none(celery: Taken) -> None:
    assert celery.give(Delivered()).headers.keys() == {"lang", "task", "id", "origin"}


@pytest.mark.parametrize("task", ["celery.group", "b2copy.nonsense", "crm.pay", STORE, "x" * 1000])
def test_what_is_no_task_of_ours_is_stored(celery: Taken, task: str) -> None:
    stored = celery.stored(Delivered(headers={"task": task}))

    assert stored["message_id"] == "m1"
    assert stored["task"].startswith(task[:150])
    assert stored["origin"] == "crm@host"
    assert stored["problem"].startswith("there is no task '" + task[:150])
    assert stored["raw"] == json.dumps(BODY)
    assert len(stored["task"]) < 300


@pytest.mark.parametrize(
    ("task", "args", "problem"),
    [
        ("b2copy.push", ["ledger"], "internal, and its arguments are wrong"),
        ("b2copy.push", ["ledger", "no lane"], "there is no such lane; there are money"),
        ("b2copy.push", ["ledger", ["money"]], "there is no such lane"),
        ("b2copy.session.refresh", ["x"], "internal, and its arguments are wrong"),
    ],
)
def test_an_internal_task_with_wrong_arguments_is_stored(
    celery: Taken, task: str, args: list[Any], problem: str
) -> None:
    assert problem in celery.stored(Delivered([args, {}, {}], {"task": task}))["problem"]


@pytest.mark.parametrize(
    ("task", "args"),
    [("b2copy.push", ["ledger", "bulk"]), ("b2copy.ledger.dispatch", []), ("b2copy.session.refresh", [])],
)
def test_an_internal_task_reaches_celery_unless_it_has_expired(celery: Taken, task: str, args: list[Any]) -> None:
    now = datetime.now(UTC)
    in_time = Delivered([args, {}, {}], {"task": task, "expires": (now + timedelta(minutes=1)).isoformat()})
    late = Delivered([args, {}, {}], {"task": task, "expires": (now - timedelta(seconds=1)).isoformat()})

    assert celery.give(in_time).noted == []
    assert celery.give(late).noted == ["acknowledged"]
    assert celery.messages == [in_time]
    assert search(ledger(), kind="message") == []


@pytest.mark.parametrize("entry", schedule(600, reconciles=True).values(), ids=lambda entry: str(entry["task"]))
def test_a_scheduled_message_reaches_celery_although_beats_clock_is_behind(
    celery: Taken, entry: dict[str, Any]
) -> None:
    beats_now = datetime.now(UTC) - timedelta(seconds=30)
    expires = beats_now + timedelta(seconds=entry["options"]["expires"])
    message = Delivered([[], {}, {}], {"task": entry["task"], "expires": expires.isoformat()})

    assert celery.give(message).noted == []
    assert celery.messages == [message]


def test_what_expired_is_logged_once_and_so_is_its_end(celery: Taken, caplog: pytest.LogCaptureFixture) -> None:
    task, now = "b2copy.ledger.dispatch", datetime.now(UTC)
    expired, in_time = (
        {"task": task, "expires": (now + timedelta(seconds=seconds)).isoformat()} for seconds in (-1, 60)
    )
    celery.give(Delivered([[], {}, {}], in_time))  # whatever expired in other tests
    caplog.clear()
    for headers in (expired, expired, expired, in_time, in_time):
        celery.give(Delivered([[], {}, {}], headers))

    logged = [record.getMessage() for record in caplog.records if "expired" in record.getMessage()]
    assert len(logged) == 2
    assert f"{task} expired" in logged[0]
    assert "it works again after 3 failures" in logged[1]


def test_an_expired_request_is_stored(celery: Taken) -> None:
    now = datetime.now(UTC)
    late = Delivered(headers={"expires": (now - timedelta(seconds=6)).isoformat()})

    assert celery.stored(late)["problem"].startswith("it expired at ")
    assert celery.give(Delivered(headers={"expires": (now + timedelta(minutes=1)).isoformat()})).headers["task"] == FEES


def test_a_request_is_not_expired_because_our_clock_is_a_little_ahead(celery: Taken) -> None:
    """A sender whose clock is four seconds behind ours lets its message expire in the moment of sending."""
    expires = (datetime.now(UTC) - timedelta(seconds=4)).isoformat()

    message = celery.give(Delivered([[], {"a": 1}, {}], {"expires": expires}))

    assert (celery.messages, message.noted, message.headers["task"]) == ([message], [], FEES)


def test_evidence_is_what_came(celery: Taken) -> None:
    stored = celery.stored(Delivered(b"\xff" * 10_000, {"origin": None, "id": ""}))

    assert (stored["message_id"], stored["task"], stored["origin"]) == ("tag", FEES, None)
    assert stored["problem"].startswith("the body cannot be decoded")
    assert stored["raw"].startswith("\\xff\\xff")
    assert "10000 bytes" in stored["raw"]


def test_an_unusable_envelope_is_stored_with_its_problem_and_its_evidence_as_it_is(celery: Taken) -> None:
    evidence = b"\\xff" * 2000  # longer than the limit already
    envelope = Delivered(evidence, {"problem": "it is broken", "task": None}, content_type=UNUSABLE)

    stored = celery.stored(envelope)

    assert (stored["problem"], stored["raw"]) == ("it is broken", evidence.decode())


def dropped_reads() -> float:
    return REGISTRY.get_sample_value("b2copy_reads_total", {"read": "unknown", "outcome": "malformed"}) or 0.0


@pytest.mark.parametrize(
    "message",
    [
        Delivered([[], {}, []], {"task": "b2copy.read"}),
        Delivered(headers={"task": "b2copy.read", "eta": "soon"}, queue="b2copy.reads"),
        Delivered(headers={"task": "b2copy.nonsense"}, queue="b2copy.reads"),
    ],
    ids=lambda message: str(message.headers["task"]),
)
def test_a_wrong_read_is_dropped_and_leaves_nothing_but_a_count(celery: Taken, message: Delivered) -> None:
    before = dropped_reads()

    celery.give(message)

    assert (message.noted, celery.messages) == (["acknowledged"], [])
    assert dropped_reads() == before + 1
    assert search(ledger(), kind="message") == []


def test_an_operation_in_the_queue_of_reads_is_no_read(celery: Taken) -> None:
    assert "three parts" in celery.stored(Delivered([[]], queue="b2copy.reads"))["problem"]
    assert celery.give(Delivered(queue="b2copy.reads")).headers["task"] == FEES


@pytest.mark.parametrize(
    ("method", "arguments", "problem"),
    [
        ("on_unknown_message", ["body"], "not a task message"),
        ("on_unknown_task", ["body", KeyError("x")], "there is no task 'x'"),
        ("on_invalid_task", ["body", ValueError("wrong")], "wrong"),
        ("on_decode_error", [ValueError("no JSON")], "the body cannot be decoded: no JSON"),
    ],
)
def test_what_celery_itself_finds_wrong_is_stored_at_once(
    celery: Taken, method: str, arguments: list[Any], problem: str
) -> None:
    message, read = Delivered(), Delivered(headers={"task": "b2copy.read", "id": "r1"}, queue="b2copy.reads")
    for one in (message, read):
        *body, error = [*arguments, None] if method == "on_unknown_message" else arguments
        after = [] if error is None else [error]
        getattr(celery.consumer, method)(*body, one, *after)

    assert (message.noted, read.noted) == (["acknowledged"], ["acknowledged"])
    [stored] = search(ledger(), kind="message")
    assert (stored.key, stored.result) == ("message:m1", {"error": problem})
    assert stored.payload == {"task": FEES, "message": json.dumps(BODY)}
