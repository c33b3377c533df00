"""Each receiver takes a notice that a worker would send, and refuses a forged one."""

import socket
import sqlite3
import struct
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests

from tests.deploy.examples.conftest import EXAMPLES, SECRET, Start, tool
from worker.webhook.sample_notice import sample
from worker.webhook.signing import Secrets

BODY = sample()[1].replace("webhook.test", "operation.succeeded").replace('"cancelled"', '"succeeded"')


def post(port: int, body: str, at: datetime | None = None, *, signed: str = BODY, **changes: str) -> int:
    headers = Secrets([SECRET]).headers("ntc_7_1", signed, at or datetime.now(UTC))
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return requests.post(f"http://127.0.0.1:{port}/", data=body.encode(), headers=headers, timeout=10).status_code


@pytest.fixture(params=["python", "node", "php"])
def receiver(request: pytest.FixtureRequest, start: Start, secret_file: Path, tmp_path: Path) -> int:
    """The port of a receiver."""
    match request.param:
        case "python":
            with closing(sqlite3.connect(tmp_path / "crm.sqlite")) as crm, crm:
                crm.execute("CREATE TABLE fees (key TEXT PRIMARY KEY, state TEXT, sequence INTEGER)")
            return start(sys.executable, EXAMPLES / "receiver.py", "{port}", secret_file, tmp_path / "crm.sqlite")
        case "node":
            return start(tool("node"), EXAMPLES / "receiver.mjs", "{port}", secret_file)
        case _:
            command = (tool("php"), "-S", "127.0.0.1:{port}", EXAMPLES / "receiver.php")
            return start(*command, WEBHOOK_SECRET_FILE=str(secret_file))


def test_a_receiver_takes_what_is_genuine_and_nothing_else(receiver: int, tmp_path: Path) -> None:
    assert post(receiver, BODY) == 204
    assert post(receiver, BODY + " ") == 401
    assert post(receiver, BODY, webhook_id="ntc_7_2") == 401
    assert post(receiver, BODY, webhook_signature="v1,nonsense") == 401
    assert post(receiver, BODY, webhook_signature="nonsense") == 401
    assert post(receiver, BODY, datetime.now(UTC) - timedelta(minutes=10)) == 401
    old = Secrets(["whsec_" + "b2xk" * 8]).headers("ntc_7_1", BODY, datetime.now(UTC))["webhook-signature"]
    new = Secrets([SECRET]).headers("ntc_7_1", BODY, datetime.now(UTC))["webhook-signature"]
    assert post(receiver, BODY, webhook_signature=f"{old} {new}") == 204


def test_a_receiver_answers_a_test_with_2xx_and_ignores_it(receiver: int, tmp_path: Path) -> None:
    _, test = sample()
    assert post(receiver, test, signed=test) == 204
    assert "webhook-test-only" not in (tmp_path / "printed").read_text()
    if (tmp_path / "crm.sqlite").exists():
        with closing(sqlite3.connect(tmp_path / "crm.sqlite")) as crm, crm:
            assert crm.execute("SELECT key FROM fees").fetchall() == []


def test_a_receiver_outlives_a_sender_that_aborts_and_one_that_sends_too_much(receiver: int) -> None:
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", receiver), timeout=10) as sender:
            sender.sendall(b"POST / HTTP/1.1\r\nHost: crm\r\nContent-Length: 1000\r\n\r\n{")
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close with a reset
    assert post(receiver, BODY) == 204

    with socket.create_connection(("127.0.0.1", receiver), timeout=10) as sender:
        sender.sendall(b"POST / HTTP/1.1\r\nHost: crm\r\nContent-Length: 2000000\r\n\r\n")
        with suppress(OSError):  # it may have closed the connection
            sender.sendall(b"x" * 2_000_000)
        with suppress(ConnectionError):  # or have reset it, and then the answer is lost
            assert b" 413 " in sender.recv(100)
    assert post(receiver, BODY) == 204


def test_a_receiver_answers_what_is_signed_and_no_json_and_goes_on(receiver: int) -> None:
    headers = Secrets([SECRET]).headers("ntc_7_1", "{", datetime.now(UTC))
    with suppress(requests.ConnectionError):
        answer = requests.post(f"http://127.0.0.1:{receiver}/", data=b"{", headers=headers, timeout=10)
        assert answer.status_code in (401, 500)  # standardwebhooks parses before it verifies
    assert post(receiver, BODY) == 204


def test_the_python_receiver_stores_the_highest_sequence(start: Start, secret_file: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "crm.sqlite")) as crm, crm:
        crm.execute("CREATE TABLE fees (key TEXT PRIMARY KEY, state TEXT, sequence INTEGER)")
    port = start(sys.executable, EXAMPLES / "receiver.py", "{port}", secret_file, tmp_path / "crm.sqlite")
    for sequence, state in ((2, "succeeded"), (1, "failed"), (2, "succeeded")):
        body = BODY.replace('"sequence": 1', f'"sequence": {sequence}').replace('"succeeded"', f'"{state}"')
        headers = Secrets([SECRET]).headers("ntc_7_1", body, datetime.now(UTC))
        requests.post(f"http://127.0.0.1:{port}/", data=body.encode(), headers=headers, timeout=10)

    with closing(sqlite3.connect(tmp_path / "crm.sqlite")) as crm, crm:
        assert crm.execute("SELECT state, sequence FROM fees").fetchall() == [("succeeded", 2)]
