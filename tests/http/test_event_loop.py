"""What blocks stays off the event loop, and every kind of caller reaches it."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple

import pytest

from tests.http.raw_server import OK, Wire
from tests.support import until
from tests.test_app import Run, refused, run  # noqa: F401
from worker.errors import LeaseTooShort, SessionUnavailable
from worker.http import Http, event_loop
from worker.http.event_loop_thread import BLOCKING_THREADS
from worker.operation import OnUnknown
from worker.settings import Settings
from worker.testbed.local_system import Environment


class Token(NamedTuple):
    access: str
    generation: int


def allowing(allowed: list[bool]) -> Callable[[], None]:
    """Return a `before_send` that raises as soon as `allowed` holds False."""

    def before_send() -> None:
        if not allowed[0]:
            raise LeaseTooShort("too little is left of the lease")

    return before_send


class SlowTokens:
    """A token source that blocks until it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.calls: list[str] = []
        self.token: Token | None = None
        self.error: Exception | None = None

    def cached(self) -> Token | None:
        return self.token

    def current(self) -> Token:
        self.calls.append(threading.current_thread().name)
        assert self.released.wait(10)
        if self.error:
            raise self.error
        self.token = Token("access", 1)
        return self.token

    def rejected(self, token: Token, *, is_doubtful: bool = False) -> Token:
        return Token("newer", token.generation + 1)

    def clock(self) -> int:
        return 0


@pytest.fixture
def tokens() -> SlowTokens:
    return SlowTokens()


@pytest.fixture
def http(wire: Wire, tokens: SlowTokens, settings: Settings) -> Http:
    return Http({"service_admin": tokens}, settings.model_copy(update={"host": wire.url}), connections=50)


def test_a_slow_token_holds_up_no_other_request_and_is_looked_up_once_for_all(http: Http, tokens: SlowTokens) -> None:
    waiting = [event_loop().submit(http.request("POST", "/x", json={})) for _ in range(40)]

    assert event_loop().run(http.request("POST", "/x", json={}, login=None)).status == 200
    assert not any(one.done() for one in waiting)
    tokens.released.set()
    assert {one.result(10).status for one in waiting} == {200}
    assert len(tokens.calls) == 1
    assert tokens.calls[0].startswith("b2copy-tokens")


def test_a_ledger_that_does_not_answer_holds_up_no_token(http: Http, tokens: SlowTokens) -> None:
    tokens.released.set()
    answered = threading.Event()
    waiting = [event_loop().submit(asyncio.to_thread(answered.wait, 20)) for _ in range(BLOCKING_THREADS)]

    assert event_loop().submit(http.request("POST", "/x", json={})).result(10).status == 200
    answered.set()
    assert all(one.result(10) for one in waiting)


def test_all_who_wait_learn_that_there_is_no_token(http: Http, tokens: SlowTokens) -> None:
    tokens.error = SessionUnavailable("no access token yet")
    waiting = [event_loop().submit(http.request("POST", "/x", json={})) for _ in range(5)]
    tokens.released.set()

    for one in waiting:
        with pytest.raises(SessionUnavailable):
            one.result(10)
    tokens.error = None
    assert event_loop().run(http.request("POST", "/x", json={})).status == 200  # nothing of it is left


class TestWhatForbidsARequest:
    """`before_send` is asked just before each time that a request is sent."""

    def test_while_its_token_is_looked_up_keeps_it_from_being_sent(
        self, http: Http, wire: Wire, tokens: SlowTokens
    ) -> None:
        allowed = [True]
        running = event_loop().submit(http.request("POST", "/x", json={}, before_send=allowing(allowed)))
        until(lambda: tokens.calls)

        allowed[0] = False
        tokens.released.set()

        with pytest.raises(LeaseTooShort):
            running.result(10)
        assert wire.requests == []

    def test_after_a_401_keeps_it_from_being_sent_with_the_next_token(
        self, http: Http, wire: Wire, tokens: SlowTokens
    ) -> None:
        allowed = [True]

        def refuse(connection: socket.socket, request: bytes) -> None:
            allowed[0] = False
            connection.sendall(OK.replace(b"200 OK", b"401 Unauthorized"))

        wire.answer = refuse
        tokens.token = Token("access", 1)

        with pytest.raises(LeaseTooShort):
            event_loop().run(http.request("POST", "/x", json={}, before_send=allowing(allowed)))
        assert len(wire.requests) == 1


def test_a_request_that_is_cancelled_leaves_the_others_their_token(http: Http, tokens: SlowTokens) -> None:
    first, second = (event_loop().submit(http.request("POST", "/x", json={})) for _ in range(2))
    while not tokens.calls:
        time.sleep(0.005)

    assert first.cancel()
    tokens.released.set()
    assert second.result(10).status == 200


def test_a_request_that_is_cancelled_leaves_the_connections_usable(http: Http, wire: Wire, tokens: SlowTokens) -> None:
    tokens.token = Token("access", 1)
    wire.answer = lambda connection, request: None
    running = event_loop().submit(http.request("POST", "/x", json={}, on_unknown=OnUnknown.REPEAT))
    while not wire.requests:
        time.sleep(0.005)

    assert running.cancel()
    wire.answer = lambda connection, request: connection.sendall(OK)
    for _ in range(3):
        again = event_loop().run(http.request("POST", "/x", json={}, on_unknown=OnUnknown.REPEAT))
        assert again.status == 200
    assert wire.connections == 2


async def end_the_thread() -> None:
    raise SystemExit("a task that ends its thread")


async def stop_the_loop() -> None:
    asyncio.get_running_loop().stop()


@pytest.mark.parametrize("task", [end_the_thread, stop_the_loop])
def test_nothing_ends_the_loop_and_the_requests_in_flight(
    http: Http, wire: Wire, tokens: SlowTokens, task: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    tokens.token = Token("access", 1)
    may_answer = threading.Event()

    def answer(connection: socket.socket, request: bytes) -> None:
        assert may_answer.wait(10)
        connection.sendall(OK)

    wire.answer = answer
    running = event_loop().submit(http.request("POST", "/x", json={}))
    until(lambda: wire.requests)

    with suppress(SystemExit):
        event_loop().submit(task()).result(10)
    may_answer.set()

    assert running.result(10).status == 200
    assert event_loop().run(http.request("POST", "/x", json={})).status == 200


def test_waiting_for_the_loop_on_the_loop_is_refused(http: Http) -> None:
    async def wait() -> None:
        http.reach()

    with pytest.raises(RuntimeError, match="must not wait"):
        event_loop().run(wait())


def test_a_worker_does_not_start_with_certificates_that_cannot_be_read(environment: Environment, run: Run) -> None:  # noqa: F811
    (environment.folder / "ca.pem").write_text("nonsense")

    [line] = refused(run("worker", B2COPY_CA_FILE=str(environment.folder / "ca.pem")))

    assert line.startswith("B2COPY_CA_FILE is not usable: ")


def test_the_end_of_the_process_waits_for_no_blocking_call() -> None:
    code = """
import asyncio, time
from worker.http import event_loop
event_loop().submit(asyncio.to_thread(time.sleep, 60))
event_loop().token_threads.submit(time.sleep, 60)
"""
    subprocess.run([sys.executable, "-c", code], timeout=20, check=True)
