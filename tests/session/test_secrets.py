"""No token leaves the process: not in logs, errors, their frames, pickles, metrics, nor in what Redis stores."""

import copyreg
import inspect
import json
import logging
import pickle
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from prometheus_client import generate_latest

from tests.conftest import Configure, Member
from tests.http.raw_server import PAIR, Wire
from tests.session.frames import shown_by
from tests.support import post, until
from worker import errors
from worker.errors import B2CopyError
from worker.http import Http
from worker.operation import OnUnknown
from worker.sandbox.control_client import SandboxControl
from worker.testbed.broker import Broker
from worker.testbed.local_system import Environment
from worker.watch.log_redaction import Redacted, guard
from worker.watch.redact import redacted

FEES = "/api/admin/fees/v2/fee/feeservice/processext"
PAYLOAD = {"account_login": "123456", "request_id": "w1"}
ASSERTION = "eyJhbGciOi"  # how a JWT begins; a shorter piece is found in any ciphertext sooner or later


def contents(error: BaseException | None) -> Iterator[str]:
    """Everything an error tracker finds in an error: its text, pickle and frames, and those of its causes."""
    if error is not None:
        yield from (f"{where} = {text}" for where, text in shown_by(error))
    while error is not None:
        yield from (str(error), repr(error), json.dumps([str(arg) for arg in error.args]), repr(vars(error)))
        yield "".join(traceback.format_exception(error))
        yield pickle.dumps(error).decode("latin-1")
        error = error.__cause__ or error.__context__


def every_way_to_fail(http: Http, session: Any, sandbox: SandboxControl) -> list[str]:
    """Go through the whole life of a session; return what its errors hold."""
    sinks: list[str] = []
    faults: list[dict[str, Any]] = [
        {"what": "status", "status": 401, "route": "api"},
        {"what": "drop", "route": "api", "effect": "done"},
        {"what": "reset", "route": "api"},
        {"what": "cut", "route": "api"},
        {"what": "huge", "route": "api"},
        {"what": "status", "status": 401, "route": "token"},
        {"what": "status", "status": 503, "route": "token"},
        {"what": "status", "status": 429, "route": "token"},
        {"what": "html", "route": "token"},
        {"what": "lacks", "route": "token", "field": "accessToken"},
        {"what": "reset", "route": "token"},
    ]
    post(http, FEES, PAYLOAD, OnUnknown.START_OR_GET)
    for fault in faults:
        sandbox.faults(fault)
        calls: list[Callable[[], Any]] = [lambda: post(http, FEES, PAYLOAD), lambda: session.renew(force=True, wait=15)]
        for act in calls:
            try:
                act()
            except B2CopyError as error:
                sinks += contents(error)
        sandbox.faults()
        session.renew(force=True, wait=15)
    post(http, FEES, PAYLOAD, OnUnknown.START_OR_GET)
    return sinks


@pytest.mark.failure_mode("F49", "F50")
def test_no_sink_ever_holds_a_token(
    member: Member, configure: Configure, sandbox: SandboxControl, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = configure()
    session = member(settings, token_deadline=0.5, login_attempts=1)
    http = Http({"service_admin": session}, settings)

    sinks = every_way_to_fail(http, session, sandbox)

    assert len(sinks) > 50
    sinks += [caplog.text, generate_latest().decode(), repr(session.state()), repr(session.current()), repr(settings)]
    sinks += dumped(broker)
    tokens = [pair[name] for pair in sandbox.pairs() for name in ("access", "refresh")]
    assert len(tokens) > 20
    private = settings.private_key_file[0].read_text().splitlines()[1]
    for secret in [*tokens, private, ASSERTION]:
        assert not [sink for sink in sinks if secret in sink]


@pytest.mark.failure_mode("F49", "F50", "F52")
def test_celery_passes_no_token_on(
    environment: Environment, active_environment: Environment, sandbox: SandboxControl, broker: Broker
) -> None:
    command = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "tests.session.canary",
        "worker",
        "-P",
        "solo",
        "-E",
        "-l",
        "DEBUG",
    ]
    process = environment.run("canary", *command, restarts=False)
    app = Celery(broker=broker.url, backend=broker.url)
    events: list[str] = []

    def note(event: dict[str, Any]) -> None:
        events.append(repr(event))

    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": note})
        listening = threading.Thread(target=receiver.capture, kwargs={"wakeup": False})
        listening.start()
        results = []
        for fault in ([], [{"what": "status", "status": 401, "route": "api"}], [{"what": "reset", "route": "api"}]):
            sandbox.switches(faults=fault)
            sent = app.send_task("canary.post", ["/api/admin/x/v1/y/z/method"])
            result = sent.get(timeout=20, propagate=False)
            results.append(f"{result!r} {sent.traceback} {sent.info}")
        until(lambda: sum("task-failed" in event for event in events) == 2)
        receiver.should_stop = True
        listening.join()
        values = dumped(broker)
    proc = Path(f"/proc/{process.pid}")
    sinks = [*results, *events, *values, process.log.read_text()]
    sinks += [(proc / name).read_bytes().decode() for name in ("environ", "cmdline")]
    app.close()
    process.kill()

    assert ["AccessRejected" in results[1], "UnknownOutcome" in results[2]] == [True, True]
    tokens = [pair[name] for pair in sandbox.pairs() for name in ("access", "refresh")]
    assert len(tokens) >= 4
    for secret in [*tokens, ASSERTION]:
        assert not [sink for sink in sinks if secret in sink]


def dumped(broker: Broker) -> list[str]:
    """All that Redis holds, in memory and on disk."""
    with redis.Redis.from_url(broker.url) as client:
        values = [(client.dump(key) or b"").decode("latin-1") for key in client.scan_iter()]
        folder = Path(client.config_get("dir")["dir"])
        until(lambda: client.info("persistence")["aof_pending_bio_fsync"] == 0)
    return values + [path.read_bytes().decode("latin-1") for path in folder.rglob("*.aof")]


def test_a_server_that_repeats_what_it_was_sent_gives_nothing_away(
    wire: Wire, member: Member, configure: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    settings = configure(host=wire.url)
    session = member(settings)

    def repeat(connection: socket.socket, request: bytes) -> None:
        text = b"unknown: " + request.partition(b"Bearer ")[2].split(b"\r\n")[0]
        connection.sendall(b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    wire.answer = repeat
    answer = post(Http({"service_admin": session}, settings), "/api/admin/x", {}, OnUnknown.REPEAT)
    session.renew(force=True, wait=15)

    assert answer.body == b"unknown: [redacted]"
    assert "unknown: [redacted]" in caplog.text
    for secret in json.loads(PAIR).values():
        assert secret not in answer.body.decode()
        assert secret not in caplog.text


ERRORS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


@pytest.mark.failure_mode("F41", "F53")
@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_survives_a_pickle(kind: type[Exception]) -> None:
    error = kind("POST /x", 503, "busy", 2.5) if issubclass(kind, B2CopyError) else kind("B2COPY_HOST is not set")

    again = pickle.loads(pickle.dumps(error))

    assert type(again) is kind
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))
    assert json.loads(json.dumps(again.args)) == list(error.args)
    assert copyreg.__reduce_ex__ is not None


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer canary-token",
        "{'Authorization': 'Bearer canary-token'}",
        '{"external_token": "canary-token"}',
        "external_token=canary-token&x=1",
        '"accessToken":"canary-token","refreshToken":"canary-token"',
        "eyJhbGciOi-canary.eyJhZG1pbl9pZCI-canary.c2lnbmF0dXJl-canary",
    ],
)
def test_the_last_gate_knows_a_token_when_it_sees_one(text: str) -> None:
    assert "canary" not in redacted(text)
    assert "[redacted]" in redacted(text)


def test_the_last_gate_leaves_other_words_alone() -> None:
    text = "operation fees.process:W1 waits: B2COPY said 'the bearer of this account is unknown' (HTTP 404)"

    assert redacted(text).replace("[redacted]", "of") == text


def test_the_gate_sees_tracebacks_and_arguments_and_is_put_up_once(capsys: pytest.CaptureFixture[str]) -> None:
    logger, handler = logging.getLogger("gate"), logging.StreamHandler()
    logger.addHandler(handler)
    logger.propagate = False
    guard(logger)
    guard(logger)

    try:
        raise ValueError("Bearer canary-token")
    except ValueError:
        logger.exception("with %s\nand a new line", {"external_token": "canary-token"})

    written = capsys.readouterr().err
    assert "ValueError" in written
    assert "canary" not in written
    assert isinstance(handler.formatter, Redacted)
    assert not isinstance(handler.formatter._formatter, Redacted)
