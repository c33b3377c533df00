"""Reads where no worker runs, and what one process of a worker does with a read."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tasks import answer_reads, enqueue
from tests.conftest import Configure
from tests.support import until
from tests.tasks.conftest import ALONE
from worker.errors import BadPayload, NoAnswerInTime, PermitRefused, RateLimited, ReadExpired, Unavailable
from worker.flow.gate import Gate
from worker.http import event_loop
from worker.instances import ledger
from worker.ledger import pause
from worker.messages.ask_read import UNREAD_MAX
from worker.messages.read_answers import Answers
from worker.messages.sealed_answer import OneTimeKey, Seal
from worker.queues import ANSWERS, READS
from worker.sandbox.control_client import SandboxControl
from worker.settings import CrmSettings, load, worker_settings
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment


class TestWithoutAWorker:
    def test_says_so_in_time_and_a_worker_that_starts_later_sends_nothing(
        self, active_environment: Environment, worker: Callable[..., Any], sandbox: SandboxControl, broker: Broker
    ) -> None:
        began = time.monotonic()
        with pytest.raises(NoAnswerInTime, match=r"no worker has answered within 0\.3 s") as caught:
            enqueue.read("accounts", timeout_s=0.3)
        assert time.monotonic() - began < 8
        assert isinstance(caught.value, Unavailable)
        with broker.client as client:
            assert client.llen(READS) == 1

        process = worker(*ALONE)

        until(lambda: "read accounts: expired before a worker took it" in process.log.read_text())
        assert "accounts.list" not in sandbox.counters()["calls"]

        # A worker that is told to end answers what it has begun to read.
        sandbox.switches(latency={"accounts.list": 1.0})
        with ThreadPoolExecutor(1) as host:
            read = host.submit(enqueue.read, "accounts")
            until(lambda: sandbox.counters()["calls"].get("accounts.list"))
            process.stop()
            assert read.result(20) == []

    def test_the_queue_does_not_grow_without_end(self, active_environment: Environment, broker: Broker) -> None:
        with broker.client as client:
            client.lpush(READS, *["x"] * UNREAD_MAX)
            with pytest.raises(Unavailable, match="reads wait that no worker has taken"):
                enqueue.read("accounts", timeout_s=5)
            assert client.llen(READS) == UNREAD_MAX

    def test_without_redis_it_is_told_at_once(self, active_environment: Environment, broker: Broker) -> None:
        broker.stop()
        began = time.monotonic()

        with pytest.raises(Unavailable, match="Redis does not answer"):
            enqueue.read("accounts", timeout_s=30)

        assert time.monotonic() - began < 20


class TestInAWorker:
    @pytest.fixture(autouse=True)
    def _new_reader(self) -> None:
        answer_reads.reader.forget()  # that of another test has other settings

    def test_only_what_the_setting_lists_is_read(self, configure: Configure) -> None:
        configure()
        with pytest.raises(BadPayload, match="seamless_url: the workers' B2COPY_READS does not list it"):
            self.value("seamless_url", login="1")

        configure(reads="leaderboard")
        with pytest.raises(BadPayload, match="accounts: the workers' B2COPY_READS"):
            self.value("accounts")

    def test_reads_leave_the_money_lanes_permits_alone(self, configure: Configure) -> None:
        configure(rate_limit="5/minute")
        for _ in range(4):
            assert self.value("accounts") == []
        with pytest.raises(ReadExpired):
            self.value("accounts", within=0.3)

        assert Gate("b2copy", worker_settings(), lambda *_: None).take(5, urgent=True) == 1

    def test_a_429_of_a_read_holds_the_whole_fleet(self, configure: Configure, sandbox: SandboxControl) -> None:
        configure()
        gate = Gate("b2copy", worker_settings(), lambda *_: None)
        sandbox.faults({"what": "status", "status": 429, "retry_after": "30", "route": "accounts.list"})

        with pytest.raises(RateLimited):
            self.value("accounts")

        until(lambda: gate.take(1, urgent=True) == 0)
        with pytest.raises(PermitRefused):
            self.value("accounts")

    def test_a_pause_of_all_lanes_stops_reads_too(self, configure: Configure, sandbox: SandboxControl) -> None:
        configure()
        pause(ledger(), "bulk", "ann", "a backfill")
        assert self.value("accounts") == []
        pause(ledger(), "all", "ann", "B2COPY asked for quiet")

        with pytest.raises(PermitRefused, match="accounts: everything is paused by ann: B2COPY asked for quiet"):
            self.value("accounts")

        assert sandbox.counters()["calls"]["accounts.list"] == 1

    @staticmethod
    def value(what: str, within: float = 10.0, **parameters: Any) -> Any:
        return event_loop().run(answer_reads._value(what, parameters, time.monotonic() + within))


def test_an_answer_is_taken_once_and_expires_by_itself(active_environment: Environment, broker: Broker) -> None:
    answers = Answers(load(CrmSettings))
    answers.post("one", b"sealed", 50_000)
    answers.post("two", b"sealed", 3_600_000)

    with broker.client as client:
        assert 0 < client.pttl(f"{ANSWERS}one") <= 50_000
        assert 0 < client.pttl(f"{ANSWERS}two") <= 60_000
        assert abs(answers.clock_ms() / 1000 - time.time()) < 60
    assert answers.take("one", 1) == b"sealed"
    assert answers.take("one", 0.01) is None
    assert answers.take("another", 0.01) is None


def test_only_who_asked_opens_the_answer_and_only_to_that_question() -> None:
    key, other = OneTimeKey(), OneTimeKey()
    sealed = Seal("one", key.public).seal(b"content")

    assert b"content" not in sealed
    assert key.unseal("one", sealed) == b"content"
    assert key.unseal("two", sealed) is None
    assert other.unseal("one", sealed) is None
    assert key.unseal("one", sealed[:-1] + bytes([sealed[-1] ^ 1])) is None
    assert key.unseal("one", b"") is None
