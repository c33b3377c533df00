"""A lane's drain: how long it lasts, how much it claims ahead, and what it leaves when it ends."""

import itertools
import threading
import time
from typing import Any

import pytest
from sqlalchemy import text

from tasks.fees import Fees
from tests.flow.conftest import (
    CALL,
    Engine,
    LocalDestination,
    fees_kind,
    in_background,
    make_all_due,
    make_lease_lapse,
    states,
)
from tests.odd_redis import ODD, redis_that_answers
from tests.operations import find_operation, record_operation, record_operations
from tests.support import until
from worker.errors import Conflict, Unavailable
from worker.flow import circuit_breaker, fleet_limits
from worker.flow import lane as lane_module
from worker.flow.gate import Gate
from worker.flow.pusher import Pusher
from worker.ledger import Ledger, settle_and_claim
from worker.operation import Claim, Done, OnUnknown, Outcome, Pending, Phase, State, Transition
from worker.operation_kind import Attempt
from worker.testbed.local_system import Environment
from worker.watch import heartbeat, metrics


def held(pusher: Pusher) -> float:
    """How many claims this process holds a lease of, by the metric."""
    return float(metrics.CLAIMS_HELD._value.get())


def count_of(ledger: Ledger, state: str) -> int:
    return list(states(ledger).values()).count(state)


def test_a_drain_holds_no_claim_when_it_ends_and_says_how_many_attempts_it_made(
    ledger: Ledger, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def attempt(attempt: Attempt, fees: Fees) -> Outcome:
        return Done({"when": object()} if fees.request_id == "W1" else None)  # W1 cannot be written

    caplog.set_level("INFO")
    record_operations(ledger, "W0", "W1", "W2")
    pusher = engine(None, fees_kind(attempt))

    assert pusher.drain("money") is False

    assert held(pusher) == 0
    assert "lane money: 3 attempts in" in caplog.text
    assert "money" not in heartbeat.stalled_loops(0.0)
    caplog.clear()
    pusher.drain("money")
    assert "attempts in" not in caplog.text


class TestTime:
    """A pool with one Celery slot per process gets its slot back; a thread has one of its own."""

    def test_a_drain_in_the_main_thread_ends_in_time_and_says_that_work_is_left(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lane_module, "DRAIN_FOR_S", 0.2)
        slow = threading.Event()
        record_operations(ledger, *(f"W{number}" for number in range(200)))
        pusher = engine(LocalDestination(lambda request_id: slow.wait(0.05)), concurrency=1)

        assert pusher.drain("money") is True

        assert held(pusher) == 0
        assert count_of(ledger, "queued") > 100
        assert count_of(ledger, "running") == 0

    def test_a_drain_in_a_thread_ends_when_nothing_is_due(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lane_module, "DRAIN_FOR_S", 0.0)
        record_operations(ledger, *(f"W{number}" for number in range(100)))

        in_background(engine(concurrency=1)).join(20)

        assert set(states(ledger).values()) == {"succeeded"}

    def test_a_lane_that_is_told_to_stop_has_no_work_left_for_this_process(
        self, ledger: Ledger, engine: Engine
    ) -> None:
        record_operation(ledger)
        pusher = engine()
        pusher.stop()

        assert pusher.drain("money") is False
        assert find_operation(ledger).state == State.QUEUED


class TestClaimingAhead:
    @pytest.mark.parametrize(("on_unknown", "ahead"), [(OnUnknown.STOP, False), (OnUnknown.REPEAT, True)])
    def test_what_must_not_be_repeated_is_claimed_only_as_it_can_be_sent(
        self, ledger: Ledger, engine: Engine, on_unknown: OnUnknown, ahead: bool
    ) -> None:
        """If this process is killed, each claim of the first kind ends as unresolved, sent or not."""
        may_answer = threading.Event()

        def answer(request_id: str) -> Any:
            assert request_id < "W20" or may_answer.wait(20)
            return {}

        record_operations(ledger, *(f"W{number}" for number in range(10, 90)), on_unknown=on_unknown)
        pusher = engine(LocalDestination(answer), concurrency=2)
        drain = in_background(pusher)
        until(lambda: find_operation(ledger, "W19").state == State.SUCCEEDED)
        until(lambda: count_of(ledger, "running") >= (10 if ahead else 2))

        for _ in range(2):  # two passes more, so that the first of them has claimed what it claims
            last_pass_at = heartbeat._progress["money"]
            pusher.drain("money")
            until(lambda at=last_pass_at: heartbeat._progress["money"] > at)  # type: ignore[misc]
        assert ahead or count_of(ledger, "running") == 2
        may_answer.set()
        drain.join(20)
        assert set(states(ledger).values()) == {"succeeded"}

    def test_the_first_claim_of_a_process_is_no_longer_than_can_be_sent(self, ledger: Ledger, engine: Engine) -> None:
        """What it will find is not known yet: it may be what must not be repeated."""
        may_answer = threading.Event()
        record_operations(ledger, *(f"W{number}" for number in range(10)), on_unknown=OnUnknown.STOP)
        destination = LocalDestination(lambda request_id: may_answer.wait(20) and {})
        drain = in_background(engine(destination, concurrency=2))
        destination.wait_for_calls(2)

        assert count_of(ledger, "running") == 2
        may_answer.set()
        drain.join(20)

    @pytest.mark.parametrize(("attempt_s", "ahead"), [(0.1, 20), (0.0001, 250)])
    def test_so_much_is_claimed_ahead_as_can_be_sent_in_a_fifth_of_a_second_and_no_more_than_a_batch(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, attempt_s: float, ahead: int
    ) -> None:
        wanted, available = list[int](), Gate.available

        def note_and_ask(self: Gate, count: int, urgent: bool) -> int:
            wanted.append(count)
            return available(self, count, urgent)

        pusher = engine(concurrency=10)
        record_operation(ledger)
        pusher.drain("money")  # nothing that must not be repeated
        pusher._lanes["money"]._attempts.attempt_s = attempt_s
        monkeypatch.setattr(Gate, "available", note_and_ask)

        pusher.drain("money")

        assert wanted[0] == 10 + ahead

    def test_permits_that_another_process_took_first_give_claims_back_unsent(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        take, taken = Gate.take, list[int]()

        def take_less(self: Gate, claimed: int, urgent: bool) -> int:
            taken.append(claimed)
            return take(self, 1 if len(taken) == 1 else claimed, urgent)

        monkeypatch.setattr(Gate, "take", take_less)
        destination = LocalDestination(lambda request_id: {})
        record_operations(ledger, "W1", "W2", "W3")
        pusher = engine(destination)
        pusher.drain("money")

        assert sorted(destination.calls) == ["W1", "W2", "W3"]
        assert set(states(ledger).values()) == {"succeeded"}
        assert held(pusher) == 0


async def poll_once(attempt: Attempt, fees: Fees) -> Outcome:
    await attempt.call(CALL, {"request_id": fees.request_id})
    return Done() if attempt.claim.phase == Phase.POLL else Pending()


class TestPhases:
    """Submits are claimed first. If they fill each claim, polls still have their turns."""

    @pytest.mark.parametrize(
        ("error", "rate_limit"),
        [(Unavailable("processext", 503), "0"), (Conflict("processext", 409), "10/second")],
        ids=["the circuit is open", "the rate limit is reached"],
    )
    def test_a_pending_operation_ends_although_submits_that_fail_are_always_due(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception, rate_limit: str
    ) -> None:
        for module in (circuit_breaker, fleet_limits):
            monkeypatch.setattr(module, "PROBE_EVERY_S", 0.2)

        def answer(request_id: str) -> Any:
            if request_id != "pending":
                raise error
            return {}

        settings = {"rate_limit": rate_limit, "concurrency": 2, "max_attempts": 1000}
        pusher = engine(LocalDestination(answer), fees_kind(poll_once), **settings)
        record_operation(ledger, "pending")
        pusher.drain("money")
        assert find_operation(ledger, "pending").phase == Phase.POLL
        record_operations(ledger, *(f"W{number}" for number in range(60)))
        drain = in_background(pusher)

        def has_ended() -> bool:
            make_all_due(ledger)
            return find_operation(ledger, "pending").state == State.SUCCEEDED

        until(has_ended)
        assert "succeeded" not in {state for name, state in states(ledger).items() if name != "pending"}
        pusher.stop()
        drain.join(20)

    def test_polls_keep_their_turn_if_another_process_makes_the_probe(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        claimed, available, take = list[Phase](), Gate.available, Gate.take

        def ask_for_one(self: Gate, wanted: int, urgent: bool) -> int:
            return available(self, min(wanted, 1), urgent)

        def take_every_second(self: Gate, count: int, urgent: bool) -> int:
            return take(self, count, urgent) if len(claimed) % 2 else 0

        def claim_and_note(*arguments: Any) -> tuple[list[Claim], list[Claim]]:
            lost, claims = settle_and_claim(*arguments)
            claimed.extend(claim.phase for claim in claims)
            return lost, claims

        pusher = engine(None, fees_kind(poll_once), concurrency=1)
        record_operation(ledger, "pending")
        pusher.drain("money")
        record_operations(ledger, *(f"W{number}" for number in range(20)))
        make_all_due(ledger)
        monkeypatch.setattr(lane_module, "POLLS_UNREAD_S", 0.0)
        pusher._lanes["money"]._look_for_polls_at = 0.0
        monkeypatch.setattr(lane_module, "settle_and_claim", claim_and_note)
        monkeypatch.setattr(Gate, "available", ask_for_one)
        monkeypatch.setattr(Gate, "take", take_every_second)
        drain = in_background(pusher)

        until(lambda: find_operation(ledger, "pending").state == State.SUCCEEDED)
        assert claimed[:3] == [Phase.SUBMIT, Phase.POLL, Phase.POLL]
        pusher.stop()
        drain.join(20)

    def test_polls_are_looked_for_four_times_a_second_while_none_is_due(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked_at = list[float]()

        def claim_and_note(*arguments: Any) -> tuple[list[Claim], list[Claim]]:
            found = settle_and_claim(*arguments)
            if arguments[-1] == Phase.POLL:
                looked_at.append(time.monotonic())
            return found

        monkeypatch.setattr(lane_module, "settle_and_claim", claim_and_note)
        monkeypatch.setattr(lane_module, "POLLS_UNREAD_S", 0.1)
        record_operations(ledger, *(f"W{number}" for number in range(300)))
        drain = in_background(engine(LocalDestination(lambda request_id: {}), concurrency=1, rate_limit="0"))
        drain.join(20)

        assert set(states(ledger).values()) == {"succeeded"}
        assert looked_at
        assert all(later - earlier >= 0.1 for earlier, later in itertools.pairwise(looked_at))


class TestPace:
    def test_a_lane_sleeps_while_its_only_call_is_in_flight(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        passes, may_answer = list[str](), threading.Event()

        def count_and_note(name: str) -> None:
            passes.append(name)
            heartbeat.note_progress(name)

        monkeypatch.setattr(lane_module, "note_progress", count_and_note)
        destination = LocalDestination(lambda request_id: may_answer.wait(20) and {})
        record_operation(ledger)
        drain = in_background(engine(destination, concurrency=1))
        destination.wait_for_calls(1)
        time.sleep(0.2)  # the time in which a loop would show

        assert passes == ["money"]
        may_answer.set()
        drain.join(20)

    @pytest.mark.parametrize(("query_s", "batch_wait_s"), [(0.0, 60.0), (0.15, 60.0), (0.15, 0.01)])
    def test_the_ledger_is_left_to_others_half_of_the_time_but_for_no_longer_than_a_batch_waits(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, query_s: float, batch_wait_s: float
    ) -> None:
        monkeypatch.setattr(lane_module, "BATCH_WAIT_S", batch_wait_s)
        queries = list[tuple[float, float]]()

        def measure(*arguments: Any) -> Any:
            began = time.monotonic()
            time.sleep(query_s)
            found = settle_and_claim(*arguments)
            queries.append((began, time.monotonic()))
            return found

        monkeypatch.setattr(lane_module, "settle_and_claim", measure)
        record_operation(ledger)
        drain = in_background(engine())
        drain.join(20)

        assert not drain.is_alive()
        (began, done), (again, _), *_ = queries
        assert again - done >= min(done - began, batch_wait_s) * 0.9


class TestTheLedger:
    def test_a_process_that_must_end_waits_for_the_ledger_for_a_while_and_names_what_it_could_not_write(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(lane_module, "DATABASE_PAUSE_S", 0.02)
        monkeypatch.setattr(lane_module, "SHUTDOWN_PATIENCE_S", 0.3)

        def answer(request_id: str) -> Any:
            with ledger.writing() as connection:
                connection.execute(text("ALTER TABLE b2copy_operations RENAME TO elsewhere"))
            return {}

        record_operation(ledger)
        pusher = engine(LocalDestination(answer))
        drain = in_background(pusher)
        until(lambda: "1 results wait" in caplog.text)
        began, progress = time.monotonic(), heartbeat._progress["money"]
        until(lambda: caplog.text.count("1 results wait") >= 20)
        assert time.monotonic() - began >= 15 * lane_module.DATABASE_PAUSE_S
        until(lambda: heartbeat._progress["money"] > progress)  # a restart would not help
        assert "was not written before this worker ended" not in caplog.text
        pusher.stop()
        drain.join(20)

        assert not drain.is_alive()
        assert "fees.process:W1: its result (succeeded) was not written before this worker ended" in caplog.text
        pusher.close()

    def test_a_ledger_that_comes_back_gets_the_results_of_a_process_that_must_end(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(lane_module, "DATABASE_PAUSE_S", 0.02)

        def answer(request_id: str) -> Any:
            with ledger.writing() as connection:
                connection.execute(text("ALTER TABLE b2copy_operations RENAME TO elsewhere"))
            return {}

        record_operations(ledger, "W1", "W2")
        pusher = engine(LocalDestination(answer), concurrency=1)
        drain = in_background(pusher)
        until(lambda: "1 results wait" in caplog.text)
        pusher.stop()
        with ledger.writing() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO b2copy_operations"))
        drain.join(20)

        assert states(ledger) == {"W1": "succeeded", "W2": "queued"}

    def test_a_drain_that_has_nothing_to_write_leaves_an_unavailable_ledger_to_the_next_one(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(lane_module, "DATABASE_PAUSE_S", 0.02)
        with ledger.writing() as connection:
            connection.execute(text("ALTER TABLE b2copy_operations RENAME TO elsewhere"))

        assert engine(rate_limit="3/minute").drain("money") is False

        assert "0 results wait" in caplog.text

    @pytest.mark.parametrize("in_flight", [False, True])
    def test_a_claim_that_fails_on_our_side_ends_only_a_drain_that_nobody_needs(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, in_flight: bool
    ) -> None:
        monkeypatch.setattr(lane_module, "DATABASE_PAUSE_S", 0.02)
        may_answer, failed = threading.Event(), list[int]()

        def fail_with_nothing_to_write(
            ledger: Ledger, transitions: list[Transition], lane: str, owner: str, want: int, *rest: Any
        ) -> Any:
            if (destination.calls or not in_flight) and not transitions and len(failed) < 3:
                failed.append(want)
                raise TypeError("ours")
            return settle_and_claim(ledger, transitions, lane, owner, want, *rest)

        def answer(request_id: str) -> Any:
            return may_answer.wait(20) and {}

        destination = LocalDestination(answer)
        monkeypatch.setattr(lane_module, "settle_and_claim", fail_with_nothing_to_write)
        record_operation(ledger)
        pusher = engine(destination)
        if not in_flight:
            with pytest.raises(TypeError):
                pusher.drain("money")
            assert len(failed) == 1
            return
        drain = in_background(pusher)
        until(lambda: destination.calls)
        for times in range(1, 4):
            pusher.drain("money")  # the first one queries again
            until(lambda times=times: len(failed) >= times)  # type: ignore[misc]
        may_answer.set()
        until(lambda: find_operation(ledger).state == State.SUCCEEDED)
        drain.join(20)

    def test_a_result_that_comes_too_late_is_dropped_and_its_claim_forgotten(
        self, ledger: Ledger, engine: Engine, caplog: pytest.LogCaptureFixture
    ) -> None:
        may_answer = threading.Event()
        record_operation(ledger)
        pusher = engine(LocalDestination(lambda request_id: may_answer.wait(20) and {}))
        drain = in_background(pusher)
        until(lambda: find_operation(ledger).state == State.RUNNING)
        make_lease_lapse(ledger)
        with ledger.writing() as connection:
            connection.execute(text("UPDATE b2copy_operations SET fence = fence + 1, lease_owner = 'another'"))

        may_answer.set()
        drain.join(20)

        assert "fees.process:W1 was taken over before its result was written" in caplog.text
        assert held(pusher) == 0


class TestResultsThatAreExpected:
    """Only the drain that claimed an operation collects its result, and nobody wakes a lane in which nothing is due."""

    def test_they_are_written_while_redis_gives_odd_answers(
        self, ledger: Ledger, engine: Engine, active_environment: Environment
    ) -> None:
        may_answer, broker = threading.Event(), active_environment.broker
        destination = LocalDestination(lambda request_id: may_answer.wait(20) and {})
        record_operation(ledger)
        pusher = engine(destination, rate_limit="10/second")
        drain = in_background(pusher)
        destination.wait_for_calls(1)
        broker.kill()
        with redis_that_answers(ODD["a word"], broker.port):
            asks_again(pusher)
            asks_again(pusher)
            may_answer.set()
            until(lambda: find_operation(ledger).state == State.SUCCEEDED)
        broker.start()
        drain.join(20)
        assert held(pusher) == 0

    @pytest.mark.parametrize("method", ["available", "take"])
    def test_they_are_written_although_the_gate_fails(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        monkeypatch.setattr(lane_module, "FAULT_PAUSE_S", 0.02)
        may_answer, failed = threading.Event(), list[int]()
        asked = getattr(Gate, method)

        def fail(self: Gate, count: int, urgent: bool) -> int:
            if not destination.calls or states(ledger)["W1"] == "succeeded":
                return int(asked(self, count, urgent))
            failed.append(count)
            raise TypeError("ours")

        destination = LocalDestination(lambda request_id: may_answer.wait(20) and {})
        monkeypatch.setattr(Gate, method, fail)
        record_operation(ledger, "W1")
        pusher = engine(destination)
        drain = in_background(pusher)
        destination.wait_for_calls(1)
        record_operation(ledger, "W2")
        pusher.drain("money")  # the first drain queries again
        until(lambda: len(failed) > 1)

        may_answer.set()
        until(lambda: find_operation(ledger, "W1").state == State.SUCCEEDED)
        until(lambda: find_operation(ledger, "W2").state == State.SUCCEEDED)
        drain.join(20)
        assert held(pusher) == 0

    def test_a_drain_with_nothing_in_hand_ends_if_the_gate_fails(
        self, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: Gate, count: int, urgent: bool) -> int:
            raise TypeError("ours")

        monkeypatch.setattr(Gate, "available", fail)

        with pytest.raises(TypeError):
            engine().drain("money")


def asks_again(pusher: Pusher) -> None:
    """Let the drain that runs make a pass, and wait until it has begun the next one or ended."""
    last_pass_at = heartbeat._progress.get("money", 0.0)
    pusher.drain("money")
    until(lambda: heartbeat._progress.get("money", last_pass_at + 1) > last_pass_at)


def test_a_hold_of_a_day_is_looked_at_every_second_and_ends_if_a_person_deletes_it(
    ledger: Ledger, engine: Engine, active_environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    pause_s = 0.05
    monkeypatch.setattr(lane_module, "LONGEST_PAUSE_S", pause_s)
    record_operation(ledger)
    pusher = engine()
    gate = pusher._lanes["money"]._gate
    gate.fleet_limits.hold(86_400.0)
    gate.fleet_limits.share_hold()
    asked, available = list[int](), Gate.available

    def count_and_ask(self: Gate, wanted: int, urgent: bool) -> int:
        asked.append(wanted)
        return available(self, wanted, urgent)

    monkeypatch.setattr(Gate, "available", count_and_ask)
    began = time.monotonic()
    drain = in_background(pusher)

    until(lambda: len(asked) >= 5)
    assert time.monotonic() - began >= 3.5 * pause_s
    with active_environment.broker.client as client:
        assert client.delete("b2copy:gate:b2copy:hold") == 1  # as a person ends it
    until(lambda: find_operation(ledger).state == State.SUCCEEDED)
    drain.join(20)
