"""Reads where no worker runs, and what one process of a worker does with a read."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from pydantic import model_serializer
from sqlalchemy.exc import OperationalError

from tasks import answer_reads, enqueue
from tasks.reads import PAGE_MAX, Board, Read
from tasks.reads import READS as READS_BY_NAME
from tests.conftest import Configure
from tests.support import until
from tests.tasks.conftest import ALONE
from worker.b2copy.routes.leaderboard import Leader
from worker.errors import (
    BadPayload,
    NoAnswerInTime,
    PermitRefused,
    RateLimited,
    ReadExpired,
    SettingsError,
    Unavailable,
)
from worker.flow.gate import Gate
from worker.http import event_loop
from worker.http.event_loop_thread import BLOCKING_THREADS
from worker.instances import ledger
from worker.ledger import pause
from worker.ledger.pauses import resume
from worker.messages.ask_read import answers
from worker.messages.read_answers import ANSWER_MAX, POSTED_MAX, Answers
from worker.messages.sealed_answer import OneTimeKey, Seal
from worker.queues import ANSWERS, READS
from worker.sandbox.control_client import SandboxControl
from worker.settings import CrmSettings, load, worker_settings
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment
from worker.watch.metrics import READS as READS_TOTAL


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
            client.lpush(READS, *["x"] * 999)
            with pytest.raises(NoAnswerInTime):
                enqueue.read("accounts", timeout_s=0.1)
            with pytest.raises(Unavailable, match="1000 reads wait that no worker has taken"):
                enqueue.read("accounts", timeout_s=5)
            assert client.llen(READS) == 1_000

    def test_without_redis_it_is_told_at_once(self, active_environment: Environment, broker: Broker) -> None:
        broker.stop()
        began = time.monotonic()

        with pytest.raises(Unavailable, match="Redis does not answer"):
            enqueue.read("accounts", timeout_s=30)

        assert time.monotonic() - began < 20


@pytest.fixture
def new_reader() -> Iterator[None]:
    answer_reads.reader.forget()  # that of another test has other settings
    answer_reads.pause_flag.forget()
    yield
    wait(list(answer_reads._running), timeout=20)  # a late request would be counted by another test


@pytest.mark.usefixtures("new_reader")
class TestInAWorker:
    def test_only_what_the_setting_lists_is_read(self, configure: Configure) -> None:
        configure()
        with pytest.raises(BadPayload, match="seamless_url: the workers' B2COPY_READS does not list it"):
            self.value("seamless_url", login="1")

        configure(reads="leaderboard")
        with pytest.raises(BadPayload, match="accounts: the workers' B2COPY_READS"):
            self.value("accounts")

    def test_reads_leave_the_money_lanes_permits_alone(self, configure: Configure) -> None:
        configure(rate_limit="12/minute")
        for _ in range(10):
            assert self.value("accounts") == []
        with pytest.raises(ReadExpired):
            self.value("accounts", within=0.3)

        assert Gate("b2copy", worker_settings(), lambda *_: None).take(12, urgent=True) == 2

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

        def refused() -> str:
            with pytest.raises(PermitRefused) as caught:
                self.value("accounts")
            return str(caught.value)

        # The ledger is asked once a second, not once for each read.
        assert self.value("accounts") == []
        answer_reads.pause_flag()._looked_at -= answer_reads.PAUSE_KEPT_S
        assert refused() == "accounts: everything is paused by ann: B2COPY asked for quiet"
        resume(ledger(), "all", "ann", "over")
        assert "everything is paused" in refused()
        assert sandbox.counters()["calls"]["accounts.list"] == 2

    @staticmethod
    def value(what: str, within: float = 10.0, **parameters: Any) -> Any:
        return event_loop().run(answer_reads._value(what, parameters, time.monotonic() + within))

    def test_a_seamless_url_is_read_although_operations_use_all_their_threads(
        self, configure: Configure, tmp_path: Path
    ) -> None:
        secret = tmp_path / "secret"
        secret.write_text("sandbox-secret")
        secret.chmod(0o600)
        configure(reads="seamless_url", seamless_secret_file=secret)
        released = threading.Event()
        blocking = [event_loop().submit(asyncio.to_thread(released.wait)) for _ in range(BLOCKING_THREADS)]
        try:
            read = event_loop().submit(answer_reads._value("seamless_url", {"login": "1"}, time.monotonic() + 10))
            assert read.result(10).reveal()
        finally:
            released.set()
            wait(blocking)

    def test_a_cancelled_read_says_nothing_about_b2copy(self, configure: Configure, sandbox: SandboxControl) -> None:
        """It has learned nothing: a success would close a circuit, or end a row of failures."""
        configure()
        self.value("accounts")
        gate = answer_reads.reader()._gate
        served = gate._last_served
        sandbox.switches(latency={"accounts.list": 30.0})
        slow = event_loop().submit(answer_reads._value("accounts", {}, time.monotonic() + 60))
        until(lambda: sandbox.counters()["calls"]["accounts.list"] == 2)

        slow.cancel()

        until(lambda: answer_reads.reader()._under_way == 0)
        assert gate._last_served == served

    def test_a_read_that_expires_is_counted_as_that(self, configure: Configure) -> None:
        configure(rate_limit="12/minute")
        expired = READS_TOTAL.labels("leaderboard", "read_expired")
        before = expired._value.get()
        for _ in range(10):
            self.value("accounts")

        with pytest.raises(ReadExpired):
            self.value("leaderboard", within=0.3)

        assert expired._value.get() == before + 1

    def test_what_waits_for_a_frozen_redis_is_bounded(
        self, configure: Configure, broker: Broker, sandbox: SandboxControl, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Reads by the hundred, of which each wants the time of a Redis that does not answer."""
        configure()
        dropped = READS_TOTAL.labels("accounts", "dropped")
        before = dropped._value.get()
        asked: tuple[Any, ...] = ("accounts", {}, "x", OneTimeKey().public, answers().clock_ms(), ledger().id)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            for _ in range(answer_reads.RUNNING_MAX + 200):
                answer_reads.read.run(*asked)
            assert len(answer_reads._running) <= answer_reads.RUNNING_MAX
            assert dropped._value.get() >= before + 200
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        until(lambda: not answer_reads._running)
        assert "accounts.list" not in sandbox.counters()["calls"]


@pytest.mark.usefixtures("new_reader")
class TestAnswersInRedis:
    def test_an_answer_is_taken_once_and_expires_by_itself(
        self, active_environment: Environment, broker: Broker
    ) -> None:
        answers = Answers(load(CrmSettings))
        answers.post("one", b"sealed", 1_000)
        answers.post("two", b"sealed", 3_600_000)

        with broker.client as client:
            assert 0 < client.pttl(f"{ANSWERS}one") <= 1_000
            assert 0 < client.pttl(f"{ANSWERS}two") <= 5_000
        assert answers.take("one", 1) == b"sealed"
        assert answers.take("one", 0.01) is None
        assert answers.take("another", 0.01) is None

    def test_the_clock_of_redis_is_read_to_the_millisecond(self, active_environment: Environment) -> None:
        answers = Answers(load(CrmSettings))
        until(lambda: time.time() % 1 > 0.8)  # not at the begin of a second: the microseconds count

        before, now, after = time.time(), answers.clock_ms(), time.time()

        assert int(before * 1000) <= now <= after * 1000

    def test_no_number_of_reads_fills_redis(
        self, configure: Configure, broker: Broker, sandbox: SandboxControl
    ) -> None:
        """A publisher asks for the longest pages with the longest deadline, and takes no answer."""
        configure(rate_limit="1000/second", concurrency=32)
        sandbox.add_accounts([account(number, 4_800) for number in range(100)])
        key = OneTimeKey()
        ends_at = answers().clock_ms() + 60_000
        with broker.client as client:
            before = client.info("memory")["used_memory"]
            for number in range(200):
                answer_reads.read.run(
                    "accounts", {"limit": PAGE_MAX}, f"many{number}", key.public, ends_at, ledger().id
                )
            until(lambda: not answer_reads._running, within=60)
            stored = client.info("memory")["used_memory"] - before
            names = [name.removeprefix(ANSWERS) for name in client.scan_iter(match=f"{ANSWERS}*", count=1000)]
        sizes = [len(answers().take(name, 0.01) or b"") for name in names]
        assert ANSWER_MAX / 2 < max(sizes) <= ANSWER_MAX
        assert stored < 2 * POSTED_MAX + 8 * 1024 * 1024

    def test_an_answer_is_written_and_sealed_in_a_thread_of_the_reads(
        self, configure: Configure, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not on the event loop: all attempts share it."""
        configure()
        wrote: list[str] = []

        class Watched(Leader):
            @model_serializer
            def write(self) -> dict[str, str]:
                wrote.append(threading.current_thread().name)
                return {"login": self.login}

        async def read(*_: Any) -> list[Watched]:
            return [Watched(login="1")]

        monkeypatch.setitem(READS_BY_NAME, "leaderboard", Read("leaderboard", Board, read))
        key = OneTimeKey()
        answer_reads.read.run("leaderboard", {}, "watched", key.public, answers().clock_ms() + 20_000, ledger().id)

        assert opened(key, "watched") == {"value": [{"login": "1"}]}
        assert [name[:12] for name in wrote] == ["b2copy-reads"]

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (SettingsError("no file"), "leaderboard: the worker cannot read it, because of its settings: no file"),
            (OperationalError("SELECT", {}, Exception("canary")), "leaderboard: the worker's ledger is unavailable"),
            (KeyError("canary"), "leaderboard: the worker failed on its side, and its log says why"),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_a_worker_that_cannot_read_says_whose_fault_it_is(
        self, configure: Configure, monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
    ) -> None:
        configure()

        async def read(*_: Any) -> None:
            raise error

        monkeypatch.setitem(READS_BY_NAME, "leaderboard", Read("leaderboard", Board, read))
        key = OneTimeKey()
        answer_reads.read.run("leaderboard", {}, "failing", key.public, answers().clock_ms() + 20_000, ledger().id)

        assert opened(key, "failing") == {"error": "Unavailable", "arguments": [told]}

    def test_beyond_what_redis_may_hold_the_asker_is_told(
        self, configure: Configure, sandbox: SandboxControl, broker: Broker
    ) -> None:
        configure()
        key = OneTimeKey()
        assert answers().reserve(32 * 1024 * 1024)
        answer_reads.read.run("accounts", {}, "full", key.public, answers().clock_ms() + 20_000, ledger().id)

        assert opened(key, "full") == {
            "error": "PermitRefused",
            "arguments": ["accounts: the answers of the last seconds are too many for Redis", None, None, 5],
        }
        with broker.client as client:
            assert 0 < client.ttl("b2copy:answer_bytes") <= 5
            client.delete("b2copy:answer_bytes")
        assert answers().reserve(POSTED_MAX)

    def test_what_is_stored_has_its_end_in_the_same_transaction(
        self, active_environment: Environment, broker: Broker
    ) -> None:
        """An answer, or the count of their bytes, that lost its end with this process would stay in Redis for ever."""

        def transactions() -> int:
            return int(client.info("commandstats").get("cmdstat_exec", {}).get("calls", 0))

        with broker.client as client:
            before = transactions()
            answers().reserve(7)
            answers().post("one", b"sealed", 1_000)

            assert transactions() == before + 2

    def test_an_answer_that_is_too_long_is_refused_with_the_remedy(
        self, configure: Configure, sandbox: SandboxControl
    ) -> None:
        configure()
        sandbox.add_accounts([account(number, 9_000) for number in range(100)])
        key = OneTimeKey()
        ends_at = answers().clock_ms() + 60_000

        answer_reads.read.run("accounts", {"limit": PAGE_MAX}, "long", key.public, ends_at, ledger().id)
        answer_reads.read.run("accounts", {"limit": 20}, "short", key.public, ends_at, ledger().id)
        answer_reads.read.run("x" * 100_000, {}, "name", key.public, ends_at, ledger().id)

        refused = opened(key, "long")
        assert refused["error"] == "BadPayload"
        assert "524288 are allowed: ask for less, for instance by limit" in refused["arguments"][0]
        content = unsealed(key, "short")
        found = json.loads(content)["value"]
        assert len(found) == 20
        assert "raw" not in found[0]
        assert "ü".encode() in content  # two bytes, not the six of an escape
        assert len(opened(key, "name")["arguments"][0]) == answer_reads.TEXT_MAX


def account(number: int, length: int) -> dict[str, Any]:
    return {"clientId": 1, "accountNumber": str(90_000 + number), "accountDescription": "ü" + "x" * length}


def unsealed(key: OneTimeKey, read_id: str) -> bytes:
    """Wait for an answer and return its content."""
    return key.unseal(read_id, until(lambda: answers().take(read_id, 0.5)) or b"") or b""


def opened(key: OneTimeKey, read_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(unsealed(key, read_id))
    return answer


@pytest.mark.parametrize("until_when", ["the question", "the message"])
def test_a_frozen_redis_delays_the_error_by_one_call(
    active_environment: Environment, broker: Broker, until_when: str
) -> None:
    """It is frozen before the first question, or when the message is written."""
    answers().clock_ms()
    with broker.client as client:
        if until_when == "the question":
            os.kill(broker.pid, signal.SIGSTOP)
        else:
            client.client_pause(60_000, all=False)
        began = time.monotonic()
        try:
            with pytest.raises(Unavailable):
                enqueue.read("accounts", timeout_s=0.5)
            took_s = time.monotonic() - began
        finally:
            os.kill(broker.pid, signal.SIGCONT)
            client.client_unpause()

    assert took_s < 0.5 + 5 + 2


def test_only_who_asked_opens_the_answer_and_only_to_that_question() -> None:
    key, other = OneTimeKey(), OneTimeKey()
    sealed = Seal("one", key.public).seal(b"content")

    assert b"content" not in sealed
    assert key.unseal("one", sealed) == b"content"
    assert key.unseal("two", sealed) is None
    assert other.unseal("one", sealed) is None
    assert key.unseal("one", sealed[:-1] + bytes([sealed[-1] ^ 1])) is None
    assert key.unseal("one", b"") is None
