"""Reads: slots and a circuit of their own, and nothing is sent for which nobody waits."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.flow.conftest import LOOK, LocalDestination
from tests.support import until
from worker.b2copy import Route
from worker.b2copy.client import SERVICE_ADMIN
from worker.errors import (
    CircuitOpen,
    GateClosed,
    PermitRefused,
    RateLimited,
    ReadExpired,
    Rejected,
    SessionUnavailable,
    Unavailable,
    UnknownOutcome,
)
from worker.flow import circuit_breaker, fleet_limits
from worker.flow import reader as reader_module
from worker.flow.circuit_breaker import FAILURES_TO_OPEN
from worker.flow.gate import Gate
from worker.flow.meaning_table import meaning_of
from worker.flow.reader import Reader, in_time
from worker.http import event_loop
from worker.operation import Done, OnUnknown
from worker.operation_kind import Call
from worker.settings import worker_settings
from worker.testbed.local_system import Environment
from worker.watch import metrics

pytestmark = pytest.mark.usefixtures("active_environment")


@pytest.fixture(autouse=True)
def _probe_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(circuit_breaker, "PROBE_EVERY_S", 0.7)
    monkeypatch.setattr(fleet_limits, "PROBE_EVERY_S", 0.1)


class Careful(LocalDestination):
    """Asks before it sends, as `worker.http` does. It looks up a token for `token_s` seconds before that."""

    def __init__(self, answer: Callable[[str], Any], token_s: float = 0.1) -> None:
        super().__init__(answer)
        self._token_s = token_s

    async def send(
        self, route: Route[Any], body: Mapping[str, Any], on_unknown: OnUnknown, before_send: Callable[[], None]
    ) -> Any:
        await asyncio.sleep(self._token_s)
        before_send()
        return await super().send(route, body, on_unknown, before_send)


def a_reader(destination: LocalDestination, **settings: Any) -> Reader:
    async def made() -> Reader:
        return Reader(lambda: destination, worker_settings().model_copy(update=settings))

    return event_loop().run(made())


def look(reader: Reader, request_id: str = "W1", route: Route[Any] = LOOK, within_s: float = 20.0) -> Any:
    async def work(call: Call) -> Any:
        return await call(route, {"request_id": request_id})

    return event_loop().submit(reader.read("list", work, time.monotonic() + within_s))


def raising(*errors: Exception) -> Callable[[str], Any]:
    """Return an answer that raises these errors, one after the other, and is then a value."""
    left = list(errors)

    def answer(request_id: str) -> Any:
        if left:
            raise left.pop(0)
        return {"id": request_id}

    return answer


def count_of(word: str) -> float:
    return float(metrics.READS.labels("list", word)._value.get())


def test_a_read_is_what_its_work_returns_and_is_counted() -> None:
    destination, before = LocalDestination(raising()), count_of("done")

    assert look(a_reader(destination)).result(20) == {"id": "W1"}

    assert destination.on_unknown == [OnUnknown.REPEAT]
    assert count_of("done") == before + 1


def test_each_request_is_counted_with_its_status_and_its_time() -> None:
    def requests() -> dict[str, float]:
        words = ("2xx", "4xx", "no_answer", "not_sent")
        return {one: metrics.REQUESTS.labels("b2copy", "list", one)._value.get() for one in words}

    before, seconds = requests(), metrics.REQUEST_SECONDS.labels("b2copy", "list")._sum
    before_s = seconds.get()
    errors = [Rejected("x", 400), Unavailable("x"), UnknownOutcome("x")]
    reader = a_reader(LocalDestination(raising(*errors)))
    for error in errors:
        with pytest.raises(type(error)):
            look(reader).result(20)
    look(reader).result(20)

    assert requests() == {word: count + 1 for word, count in before.items()}
    assert 0 < seconds.get() - before_s < 60


def test_reads_leave_the_permits_that_are_for_withdrawals_alone() -> None:
    reader = a_reader(LocalDestination(raising()), rate_limit="5/minute")
    for _ in range(4):
        look(reader).result(20)

    with pytest.raises(ReadExpired):
        look(reader, within_s=0.2).result(20)
    assert reader._gate.take(1, urgent=True) == 1


def test_a_process_holds_more_reads_than_wait_for_a_slot() -> None:
    from tasks.answer_reads import RUNNING_MAX  # reads the settings, which the fixtures have made

    assert reader_module.WAITING_MAX < RUNNING_MAX


def test_an_error_reaches_the_caller_and_is_counted_by_its_word() -> None:
    before = count_of("rejected")

    with pytest.raises(Rejected):
        look(a_reader(LocalDestination(raising(Rejected("x", 400))))).result(20)

    assert count_of("rejected") == before + 1


def test_so_many_reads_have_a_slot_so_many_wait_and_more_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "WAITING_MAX", 2)
    may_answer = False
    destination = LocalDestination(lambda request_id: until(lambda: may_answer))
    reader = a_reader(destination, concurrency=3)

    under_way = [look(reader, f"W{number}") for number in range(5)]
    destination.wait_for_calls(3)
    with pytest.raises(PermitRefused, match="2 reads wait already") as caught:
        look(reader, "more").result(20)
    assert caught.value.retry_after == 1.0
    assert len(destination.calls) == 3

    may_answer = True
    for one in under_way:
        one.result(20)
    for number in range(12):  # each slot and each place is free again
        look(reader, f"later {number}").result(20)
    assert len(destination.calls) == 5 + 12


def test_a_read_that_fails_or_expires_gives_its_slot_back() -> None:
    destination = Careful(raising(Rejected("x", 400), Rejected("x", 400)))
    reader = a_reader(destination, concurrency=1)
    for _ in range(2):
        with pytest.raises(Rejected):
            look(reader).result(20)
    for _ in range(2):
        with pytest.raises(ReadExpired):
            look(reader, within_s=-1.0).result(20)

    assert look(reader).result(20) == {"id": "W1"}
    assert len(destination.calls) == 3


def test_nothing_is_sent_after_the_deadline_however_long_the_token_took() -> None:
    destination = Careful(raising())
    reader = a_reader(destination)

    with pytest.raises(ReadExpired):
        look(reader, within_s=0.05).result(20)
    assert destination.calls == []
    assert look(reader).result(20) == {"id": "W1"}


def test_a_probe_that_expires_before_it_is_sent_is_followed_by_another_one_soon() -> None:
    reader, down = a_reader(Careful(raising(), token_s=0.5)), Unavailable("x")
    for _ in range(FAILURES_TO_OPEN):
        event_loop().run(reader._gate.record(down, meaning_of(down), SERVICE_ADMIN))
    until(lambda: reader._gate.until_open_s(urgent=False) == 0.0)

    with pytest.raises(ReadExpired):
        look(reader, within_s=0.3).result(20)

    assert reader._gate.until_open_s(urgent=False) <= circuit_breaker.NEXT_PROBE_S


def test_nothing_is_sent_if_the_circuit_has_opened_while_the_token_was_looked_up() -> None:
    destination = Careful(raising())
    reader, lost = a_reader(destination), SessionUnavailable("no token")

    async def work(call: Call) -> Any:
        asking = asyncio.ensure_future(call(LOOK, {"request_id": "W1"}))
        await asyncio.sleep(0)
        await reader._gate.record(lost, meaning_of(lost), SERVICE_ADMIN)
        return await asking

    with pytest.raises(CircuitOpen, match=r"nothing was sent to b2copy\.reads: our login fails"):
        event_loop().run(reader.read("list", work, time.monotonic() + 20))
    assert destination.calls == []


def test_reads_that_fail_open_a_circuit_of_their_own_and_one_that_succeeds_closes_it() -> None:
    failures = [Unavailable("x") for _ in range(FAILURES_TO_OPEN)]
    destination = LocalDestination(raising(*failures))
    reader = a_reader(destination)
    operations = Gate("b2copy", worker_settings(), lambda *_: None)
    for _ in failures:
        with pytest.raises(Unavailable):
            look(reader).result(20)

    with pytest.raises(CircuitOpen) as caught:
        look(reader).result(20)
    assert 0 < (caught.value.retry_after or 0) <= 2.0
    assert len(destination.calls) == FAILURES_TO_OPEN
    assert operations.fleet_limits.reserve_probe() == 0.0  # the probes of operations are theirs

    def is_a_probe() -> bool:
        try:
            return bool(look(reader).result(20))
        except GateClosed:
            return False

    until(is_a_probe)
    assert reader._gate.is_open


def test_a_429_to_a_read_holds_reads_for_its_time_and_operations_for_a_minute(active_environment: Environment) -> None:
    reader = a_reader(LocalDestination(raising(RateLimited("list", 429, None, 3600.0))))
    operations = Gate("b2copy", worker_settings(), lambda *_: None)
    with pytest.raises(RateLimited):
        look(reader).result(20)

    until(lambda: operations.take(1, urgent=True) == 0)
    assert 30 < operations.fleet_limits.hold_left_s() <= 60
    with pytest.raises(PermitRefused) as caught:
        look(reader).result(20)
    assert 3500 < (caught.value.retry_after or 0) <= 3600

    until(lambda: not reader._gate._tasks)
    with active_environment.broker.client as client:  # as a person ends both
        assert client.delete("b2copy:gate:b2copy.reads:hold", "b2copy:gate:b2copy:hold") == 2

    def is_served() -> bool:
        with contextlib.suppress(PermitRefused):
            return bool(look(reader).result(20))
        return False

    until(is_served)
    until(lambda: operations.take(1, urgent=True) == 1)


def test_a_read_that_made_no_request_says_nothing_about_b2copy() -> None:
    async def work(call: Call) -> Any:
        raise Unavailable("before the first request")

    reader = a_reader(LocalDestination(raising()))
    for _ in range(FAILURES_TO_OPEN + 1):
        with pytest.raises(Unavailable):
            event_loop().run(reader.read("list", work, time.monotonic() + 20))

    assert reader._gate.is_open


@pytest.mark.parametrize(
    ("route", "answer", "is_open"),
    [
        (LOOK, raising(), True),
        (dataclasses.replace(LOOK, login="back_office"), raising(), False),
        (LOOK, raising(SessionUnavailable("no token")), False),
    ],
    ids=["service admin", "another login", "not sent"],
)
def test_only_a_request_with_the_service_admins_token_proves_its_login(
    route: Route[Any], answer: Callable[[str], Any], is_open: bool
) -> None:
    reader = a_reader(LocalDestination(answer))
    lost = SessionUnavailable("no token")
    event_loop().run(reader._gate.record(lost, meaning_of(lost), SERVICE_ADMIN))
    assert not reader._gate.is_open
    until(lambda: reader._gate.until_open_s(urgent=False) == 0.0)

    with contextlib.suppress(SessionUnavailable):
        look(reader, route=route).result(20)

    assert reader._gate.is_open == is_open


def test_only_a_wait_that_lasts_too_long_has_expired() -> None:
    async def timed_out() -> None:
        raise TimeoutError("of its own")

    async def waiting() -> str:
        return "came"

    with pytest.raises(TimeoutError, match="of its own"):
        asyncio.run(in_time(timed_out(), time.monotonic() + 20))
    assert asyncio.run(in_time(waiting(), time.monotonic() + 20)) == "came"
    with pytest.raises(ReadExpired):
        asyncio.run(in_time(asyncio.sleep(20), time.monotonic() + 0.05))


def test_the_gate_of_reads_learns_from_a_success(active_environment: Environment) -> None:
    reader = a_reader(LocalDestination(raising()))
    began = time.monotonic()
    look(reader).result(20)

    assert reader._gate.served_since(began, SERVICE_ADMIN)
    assert meaning_of(Done()).circuit == "success"
