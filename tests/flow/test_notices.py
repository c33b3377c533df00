"""Notices go through the engine in a lane with a gate of its own: the CRM's faults hold up no operation at B2COPY."""

import json
import socket
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tasks.notices import GONE_NOTE, NOTIFY, WAITS_S
from tests.conftest import forget
from tests.flow.conftest import LocalDestination, fees_kind, in_background, make_all_due
from tests.http.raw_server import OK, Wire
from tests.http.test_wire import answers
from tests.operations import find_operation, record_operation, record_operations
from tests.support import until
from tests.webhook.conftest import SECRETS
from tests.webhook.test_endpoint import answer, head_and_body
from tests.webhook.test_notify_task import received
from worker.flow.pusher import Pusher
from worker.instances import crm
from worker.instances import ledger as open_this_ledger
from worker.ledger import Ledger, active_flags, attempts_of, replay, search
from worker.ledger.notices import BY, want_notices
from worker.ledger.pauses import resume
from worker.operation import NOTICE_KIND, FailureReason, Operation, State, WaitReason
from worker.queues import NOTIFY as LANE
from worker.redis_connection import redis_client
from worker.settings import worker_settings
from worker.testbed.local_system import Environment
from worker.webhook.signing import Secrets

GONE = answers(answer("410 Gone"))
REFUSES = answers(answer("500 Internal Server Error", body=b"out of order"))


@pytest.fixture
def ledger(active_environment: Environment, wire: Wire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger whose CRM has a webhook at `wire`."""
    secret = tmp_path / "webhook.secret"
    secret.write_text(SECRETS[0])
    secret.chmod(0o600)
    monkeypatch.setenv("B2COPY_WEBHOOK_URL", wire.url)
    monkeypatch.setenv("B2COPY_WEBHOOK_SECRET_FILE", str(secret))
    want_notices(open_this_ledger())
    return open_this_ledger()


@pytest.fixture
def pusher(ledger: Ledger) -> Any:
    kinds = {kind.name: kind for kind in (fees_kind(), NOTIFY)}
    made = Pusher(ledger, kinds, {"b2copy": lambda: LocalDestination(lambda _: {}), "crm": crm}, worker_settings())
    yield made
    made.stop()


def end_operation(ledger: Ledger, pusher: Pusher) -> None:
    """Have an operation succeed at B2COPY, which records a notice."""
    record_operation(ledger)
    pusher.drain("money")


def notice(ledger: Ledger) -> Operation:
    """Return the only notice."""
    [found] = search(ledger, kind=NOTICE_KIND)
    return found


def test_the_end_of_an_operation_has_a_notice(ledger: Ledger, pusher: Pusher, wire: Wire) -> None:
    end_operation(ledger, pusher)
    pusher.drain(LANE)

    [request] = wire.requests
    _, headers, body = head_and_body(request)
    assert Secrets(SECRETS[:1]).problem(body, headers) is None
    notice_body = json.loads(body)
    assert (notice_body["type"], notice_body["data"]["key"]) == ("operation.succeeded", "fees.process:W1")
    assert notice(ledger).state == State.SUCCEEDED


def test_a_worker_without_the_webhook_leaves_notices_to_others(
    ledger: Ledger, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.drain_lane import push  # reads the settings, which the fixtures have made

    end_operation(ledger, pusher)
    monkeypatch.delenv("B2COPY_WEBHOOK_URL")
    forget()

    push(ledger.id, LANE)

    assert notice(ledger).state == State.QUEUED


def test_every_try_sends_the_same_bytes_under_the_same_id(ledger: Ledger, pusher: Pusher, wire: Wire) -> None:
    wire.answer = REFUSES
    end_operation(ledger, pusher)
    for _ in range(3):
        make_all_due(ledger)
        pusher.drain(LANE)
    wire.answer = answers(OK)
    make_all_due(ledger)
    pusher.drain(LANE)

    requests = [head_and_body(request) for request in wire.requests]
    assert len(requests) == 4
    assert len({body for _, _, body in requests}) == 1
    assert len({headers["webhook-id"] for _, headers, _ in requests}) == 1
    assert notice(ledger).state == State.SUCCEEDED


def test_a_notice_waits_longer_after_each_try(ledger: Ledger, pusher: Pusher, wire: Wire) -> None:
    wire.answer = REFUSES
    end_operation(ledger, pusher)
    waits_ms = []
    for _ in range(5):  # the sixth would be a probe, as the circuit opens
        make_all_due(ledger)
        pusher.drain(LANE)
        waiting = notice(ledger)
        assert (waiting.state, waiting.wait_reason) == (State.WAITING, WaitReason.BACKOFF)
        waits_ms.append(waiting.last_wait_ms)

    assert waits_ms == [wait_s * 1000 for wait_s in WAITS_S[:5]]
    [attempt] = attempts_of(ledger, notice(ledger).id)
    assert (attempt.outcome, attempt.http_status, attempt.times) == ("server_error", 500, 5)
    assert "out of order" in str(attempt.message)


def test_a_notice_that_nobody_takes_fails_at_its_deadline_and_can_be_replayed(
    ledger: Ledger, pusher: Pusher, wire: Wire
) -> None:
    wire.answer = REFUSES
    end_operation(ledger, pusher)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET deadline_at = 1 WHERE state = 'queued'"))
    pusher.drain(LANE)

    dead = notice(ledger)
    assert (dead.state, dead.failure_reason) == (State.FAILED, FailureReason.EXHAUSTED)
    wire.answer = answers(OK)
    replay(ledger, [dead.key], "ada", "the CRM is back")
    pusher.drain(LANE)
    assert notice(ledger).state == State.SUCCEEDED


def test_a_receiver_that_is_gone_holds_all_notices_until_a_person_resumes(
    ledger: Ledger, pusher: Pusher, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.answer = GONE
    record_operations(ledger, "W1", "W2", "W3")
    pusher.drain("money")
    pusher.drain(LANE)

    flag = active_flags(ledger)[f"pause:{LANE}"]
    assert (flag.actor, flag.note) == (BY, GONE_NOTE)
    assert [record.levelname for record in caplog.records if "410 Gone" in record.message] == ["CRITICAL"]
    tries = len(wire.requests)
    make_all_due(ledger)
    pusher.drain(LANE)
    record_operation(ledger, "W4")
    pusher.drain("money")  # operations at B2COPY go on
    pusher.drain(LANE)
    assert len(wire.requests) == tries
    assert {one.state for one in search(ledger, kind=NOTICE_KIND)} <= {State.QUEUED, State.WAITING}

    wire.answer = answers(OK)
    resume(ledger, LANE, "ada", "the receiver is back")
    make_all_due(ledger)
    until(lambda: pusher.drain(LANE) or {one.state for one in search(ledger, kind=NOTICE_KIND)} == {State.SUCCEEDED})


def test_a_notice_that_was_held_for_longer_than_its_deadline_has_all_its_tries_after_the_resume(
    ledger: Ledger, pusher: Pusher, wire: Wire
) -> None:
    wire.answer = GONE
    end_operation(ledger, pusher)
    pusher.drain(LANE)
    days_ms = 4 * 86_400_000
    with ledger.writing() as connection:  # four days pass
        connection.execute(text(f"UPDATE b2copy_flags SET since = since - {days_ms}"))
        moved = f"deadline_at = deadline_at - {days_ms}, due_at = due_at - {days_ms}"
        connection.execute(text(f"UPDATE b2copy_operations SET {moved} WHERE state = 'waiting'"))

    wire.answer = REFUSES
    resume(ledger, LANE, "ada", "the receiver is back")
    make_all_due(ledger)
    pusher.drain(LANE)
    assert (notice(ledger).state, len(wire.requests)) == (State.WAITING, 2)


def test_a_410_after_the_deadline_holds_the_notice_instead_of_failing_it(
    ledger: Ledger, pusher: Pusher, wire: Wire
) -> None:
    wire.answer = GONE
    end_operation(ledger, pusher)
    with ledger.writing() as connection:
        connection.execute(text("UPDATE b2copy_operations SET deadline_at = 1 WHERE state = 'queued'"))

    pusher.drain(LANE)

    assert notice(ledger).state == State.WAITING
    assert f"pause:{LANE}" in active_flags(ledger)


class TestTask:
    """The CRM has a Celery task too, whose queue is on the same broker."""

    @pytest.fixture(autouse=True)
    def task(self, active_environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("B2COPY_NOTIFY_TASK", "crm.fees_ended")
        monkeypatch.setenv("B2COPY_NOTIFY_QUEUE", "crm")

    def test_and_webhook_are_both_told_the_same(
        self, ledger: Ledger, pusher: Pusher, wire: Wire, active_environment: Environment
    ) -> None:
        record_operation(ledger)
        pusher.drain("money")
        pusher.drain(LANE)

        message = received(active_environment.broker.url)
        _, headers, body = head_and_body(wire.requests[0])
        assert message.headers["id"] == headers["webhook-id"]
        assert message.payload[0] == [json.loads(body)]
        assert notice(ledger).state == State.SUCCEEDED

    def test_is_told_once_although_the_webhook_is_dead(
        self, ledger: Ledger, pusher: Pusher, wire: Wire, active_environment: Environment
    ) -> None:
        wire.answer = REFUSES
        record_operation(ledger)
        pusher.drain("money")
        for _ in range(3):
            make_all_due(ledger)
            pusher.drain(LANE)

        assert received(active_environment.broker.url).headers["task"] == "crm.fees_ended"
        assert redis_client(worker_settings(), 1.0).llen("crm") == 0
        assert len(wire.requests) == 3
        wire.answer = answers(OK)
        make_all_due(ledger)
        pusher.drain(LANE)
        assert notice(ledger).state == State.SUCCEEDED

    def test_that_cannot_be_told_leaves_the_webhook_told_and_is_told_later(
        self, ledger: Ledger, pusher: Pusher, wire: Wire, active_environment: Environment
    ) -> None:
        broker = redis_client(worker_settings(), 1.0)
        broker.set("crm", "not a list")
        record_operation(ledger)
        pusher.drain("money")
        pusher.drain(LANE)
        assert (len(wire.requests), notice(ledger).state) == (1, State.WAITING)

        broker.delete("crm")
        make_all_due(ledger)
        pusher.drain(LANE)

        assert received(active_environment.broker.url).headers["task"] == "crm.fees_ended"
        assert (len(wire.requests), notice(ledger).state) == (1, State.SUCCEEDED)

    @pytest.mark.parametrize(
        ("webhook", "requests_max"),
        [
            (REFUSES, 25),  # the first ten at once, and then probes
            (answers(answer("429 Too Many Requests", "Retry-After: 3600")), 10),
        ],
        ids=["dead", "asks to wait"],
    )
    def test_is_told_of_each_of_many_at_once_although_the_webhook_takes_none(
        self, ledger: Ledger, pusher: Pusher, wire: Wire, webhook: Any, requests_max: int
    ) -> None:
        wire.answer = webhook
        told = redis_client(worker_settings(), 1.0)
        for count in (20, 40):  # the second twenty end while the webhook's gate is closed
            record_operations(ledger, *(f"W{number}" for number in range(count - 20, count)))
            pusher.drain("money")
            telling = in_background(pusher, LANE)
            until(partial(lambda count: told.llen("crm") == count, count), within=5.0)
            telling.join(20)

        assert len(wire.requests) <= requests_max
        assert {one.state for one in search(ledger, kind=NOTICE_KIND)} <= {State.WAITING, State.RUNNING}

    def test_and_webhook_have_each_notice_once_when_the_webhook_answers_again(
        self, ledger: Ledger, pusher: Pusher, wire: Wire
    ) -> None:
        wire.answer = REFUSES
        record_operations(ledger, *(f"W{number}" for number in range(20)))
        pusher.drain("money")
        pusher.drain(LANE)
        assert WaitReason.CIRCUIT_OPEN in {one.wait_reason for one in search(ledger, kind=NOTICE_KIND)}

        wire.answer = answers(OK)
        succeeded = {State.SUCCEEDED}
        until(lambda: pusher.drain(LANE) or {one.state for one in search(ledger, kind=NOTICE_KIND)} == succeeded)

        assert redis_client(worker_settings(), 1.0).llen("crm") == 20

    def test_that_cannot_be_told_holds_up_no_notice_to_the_webhook(
        self, ledger: Ledger, pusher: Pusher, wire: Wire, active_environment: Environment
    ) -> None:
        redis_client(worker_settings(), 1.0).set("crm", "not a list")
        record_operations(ledger, *(f"W{number}" for number in range(30)))
        pusher.drain("money")
        telling = in_background(pusher, LANE)

        until(lambda: len(wire.requests) == 30, within=5.0)
        telling.join(20)
        assert {one.state for one in search(ledger, kind=NOTICE_KIND)} <= {State.WAITING, State.RUNNING}


def test_a_hanging_crm_holds_up_no_operation_at_b2copy(ledger: Ledger, pusher: Pusher, wire: Wire) -> None:
    released = threading.Event()

    def hang(connection: socket.socket, request: bytes) -> None:
        released.wait(20)
        connection.sendall(OK)

    wire.answer = hang
    record_operations(ledger, *(f"W{number}" for number in range(30)))
    pusher.drain("money")
    telling = in_background(pusher, LANE)
    until(lambda: len(wire.requests) == worker_settings().concurrency)

    record_operations(ledger, *(f"V{number}" for number in range(30)))
    pusher.drain("money")

    assert {find_operation(ledger, f"V{number}").state for number in range(30)} == {State.SUCCEEDED}
    released.set()
    until(lambda: {one.state for one in search(ledger, kind=NOTICE_KIND)} == {State.SUCCEEDED})
    telling.join(10)


def test_a_dead_crm_opens_its_own_circuit_and_not_that_of_b2copy(
    ledger: Ledger, pusher: Pusher, monkeypatch: pytest.MonkeyPatch, wire: Wire
) -> None:
    wire.answer = lambda connection, request: True  # closes the connection without an answer
    record_operations(ledger, *(f"W{number}" for number in range(30)))
    pusher.drain("money")
    telling = in_background(pusher, LANE)
    until(lambda: WaitReason.BACKOFF in {one.wait_reason for one in search(ledger, kind=NOTICE_KIND)})

    record_operation(ledger, "V1")
    pusher.drain("money")

    assert find_operation(ledger, "V1").state == State.SUCCEEDED
    assert len(wire.requests) < 31  # the others wait for a probe
    wire.answer = answers(OK)
    until(lambda: {one.state for one in search(ledger, kind=NOTICE_KIND)} == {State.SUCCEEDED})
    telling.join(10)
