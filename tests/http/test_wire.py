"""What a server, a network or the environment can do to one request, and what it means."""

import gzip
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import certifi
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http.certificate import make_certificate
from tests.http.raw_server import OK, Wire
from worker.errors import B2CopyError, SettingsError, Unavailable, UnknownOutcome
from worker.http import Answer, StaleConnection, Transport, check, event_loop
from worker.http.connections import Connections
from worker.http.curl import Request

Send = Callable[..., Answer]

DEADLINE_S = 1.0


@pytest.fixture
def send(wire: Wire) -> Send:
    """Return a function that sends one request, by default a POST that may be sent twice."""
    connections = Connections(None, 4)

    def send(
        method: str = "POST", body: bytes | None = b"{}", url: str | None = None, *, resendable: bool = True
    ) -> Answer:
        request = Request(method, (url or wire.url) + "/x", f"{method} /x", {}, body, resendable)
        return event_loop().run(connections.send(request, DEADLINE_S))

    return send


def answers(*parts: bytes, pause: float = 0.0, close: bool = False) -> Callable[[socket.socket, bytes], bool]:
    """Return a server's answer to every request: parts with a pause after each."""

    def answer(connection: socket.socket, request: bytes) -> bool:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        return close

    return answer


class TestSentOnce:
    """libcurl sends a POST again by itself when a reused connection breaks."""

    @pytest.fixture
    def breaks(self, wire: Wire) -> None:
        """Answer the first request on a connection; read the second one and close."""
        seen: set[int] = set()

        def answer(connection: socket.socket, request: bytes) -> bool:
            if connection.fileno() in seen:
                return True
            seen.add(connection.fileno())
            connection.sendall(OK)
            return False

        wire.answer = answer

    @pytest.mark.usefixtures("breaks")
    def test_with_a_body(self, wire: Wire, send: Send) -> None:
        send()

        with pytest.raises(StaleConnection):
            send()
        assert len(wire.requests) == 2

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
    @pytest.mark.parametrize("body", [b"", None])
    def test_without_a_body(self, wire: Wire, send: Send, method: str, body: bytes | None) -> None:
        send()
        wire.answer = lambda connection, request: True  # on any connection

        with pytest.raises(UnknownOutcome):
            send(method, body)
        assert len(wire.requests) == 2
        assert wire.connections == 2

    def test_never_on_a_reused_connection_if_it_must_not_be_sent_twice(self, wire: Wire, send: Send) -> None:
        send()
        wire.answer = lambda connection, request: True

        with pytest.raises(UnknownOutcome):
            send(resendable=False)
        assert (len(wire.requests), wire.connections) == (2, 2)


class TestReuse:
    def test_a_connection_that_was_closed_while_idle_is_replaced_before_anything_is_sent(
        self, wire: Wire, send: Send
    ) -> None:
        wire.answer = answers(OK, close=True)

        for _ in range(3):
            assert send().status == 200
            time.sleep(0.02)  # for the end of the connection to arrive
        assert (len(wire.requests), wire.connections) == (3, 3)

    def test_bytes_after_an_answer_are_never_taken_for_the_next_one(self, wire: Wire, send: Send) -> None:
        other = OK.replace(b"{}", b"[]")
        wire.answer = answers(OK, other, pause=0.02)

        for _ in range(3):
            assert send().body == b"{}"
            time.sleep(0.05)

    def test_nor_if_they_come_with_it(self, wire: Wire, send: Send) -> None:
        wire.answer = answers(OK + OK.replace(b"{}", b"[]"))

        assert [send().body for _ in range(3)] == [b"{}"] * 3

    def test_a_timeout_ends_the_connection(self, wire: Wire, send: Send) -> None:
        send()
        wire.answer = lambda connection, request: None

        with pytest.raises(UnknownOutcome):
            send()
        wire.answer = answers(OK)
        assert send().status == 200
        assert wire.connections == 2

    def test_fifty_at_once_use_fifty_connections_and_one_thread(self, wire: Wire) -> None:
        arrived = threading.Barrier(50)

        def answer(connection: socket.socket, request: bytes) -> None:
            arrived.wait(5)
            connection.sendall(OK)

        wire.answer = answer
        connections = Connections(None, 50)
        request = Request("POST", wire.url + "/x", "POST /x", {}, b"{}", True)

        for _ in range(2):
            pending = [event_loop().submit(connections.send(request, 5.0)) for _ in range(50)]
            assert {one.result().status for one in pending} == {200}
        assert wire.connections == 50


class TestFraming:
    @pytest.mark.parametrize(
        ("raw", "status", "body"),
        [
            (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b""),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b""),
            (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
            (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 200, b"{}"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\n\r\n", 200, b"{}"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nRetry-After: 9\r\n\r\n",
                200,
                b"{}",
            ),
            (b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", 200, b"{}"),
        ],
    )
    def test_an_answer_is_whole_when_its_framing_says_so(
        self, wire: Wire, send: Send, raw: bytes, status: int, body: bytes
    ) -> None:
        wire.answer = answers(raw)

        for _ in range(2):
            answer = send()
            assert (answer.status, answer.body, answer.retry_after) == (status, body, None)
        assert len(wire.requests) == 2

    def test_the_answer_to_a_head_has_no_body(self, wire: Wire, send: Send) -> None:
        wire.answer = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")

        assert [send("HEAD", None).status for _ in range(2)] == [200, 200]
        assert wire.connections == 1

    @pytest.mark.parametrize(
        "raw",
        [
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nz\r\n{}\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Encoding: unheard-of\r\n\r\n{}",
            b"SSH-2.0-OpenSSH_9\r\n\r\n",
            b"{}",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n" + OK,
        ],
    )
    def test_framing_that_cannot_be_believed_is_an_unknown_outcome(self, wire: Wire, send: Send, raw: bytes) -> None:
        wire.answer = answers(raw)

        with pytest.raises(UnknownOutcome):
            send()
        assert len(wire.requests) == 1

    @pytest.mark.parametrize("interim", [b"100 Continue", b"102 Processing", b"103 Early Hints"])
    def test_interim_answers_are_read_past(self, wire: Wire, send: Send, interim: bytes) -> None:
        count = 0

        def answer(connection: socket.socket, request: bytes) -> None:
            nonlocal count
            count += 1
            for _ in range(20):
                connection.sendall(b"HTTP/1.1 " + interim + b"\r\nRetry-After: 9\r\n\r\n")
                time.sleep(0.01)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % count)

        wire.answer = answer

        for number in (1, 2, 3):
            answered = send()
            assert (answered.status, answered.body, answered.retry_after) == (200, b"%d" % number, None)
        assert (len(wire.requests), wire.connections) == (3, 1)

    def test_interim_answers_and_nothing_else_end_at_the_deadline(self, wire: Wire, send: Send) -> None:
        wire.answer = answers(*[b"HTTP/1.1 102 Processing\r\n\r\n"] * 30, pause=0.05)

        started = time.monotonic()
        with pytest.raises(UnknownOutcome):
            send()
        assert time.monotonic() - started < DEADLINE_S + 0.3

    def test_an_interim_answer_that_is_cut_is_no_answer(self, wire: Wire, send: Send) -> None:
        wire.answer = answers(b"HTTP/1.1 102 Processing\r\n\r\n", close=True)

        with pytest.raises(UnknownOutcome):
            send()


class TestLimits:
    def test_no_encoding_is_asked_for_and_gzip_is_decoded_all_the_same(self, wire: Wire, send: Send) -> None:
        packed = gzip.compress(b'{"a": 1}')
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
        wire.answer = answers(head + packed)

        assert send().json() == {"a": 1}
        assert b"accept-encoding" not in wire.requests[0].lower()
        assert b"expect" not in wire.requests[0].lower()

    @pytest.mark.parametrize("framing", [b"Content-Length: 9000000", b"Transfer-Encoding: chunked", b"X: y"])
    def test_a_body_longer_than_a_mebibyte(self, wire: Wire, send: Send, framing: bytes) -> None:
        part = b"10000\r\n" + b"x" * 65536 + b"\r\n" if b"chunked" in framing else b"x" * 65536
        wire.answer = answers(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n", *[part] * 20)

        with pytest.raises(UnknownOutcome, match="longer than 1048576 bytes"):
            send()

    def test_headers_without_end(self, wire: Wire, send: Send) -> None:
        wire.answer = answers(b"HTTP/1.1 200 OK\r\n", *[b"X-Y: " + b"y" * 2000 + b"\r\n"] * 400)

        with pytest.raises(UnknownOutcome):
            send()


class TestNothingSent:
    def test_a_name_that_does_not_exist(self, send: Send) -> None:
        with pytest.raises(Unavailable):
            send(url="http://no-such-name.invalid", resendable=False)

    def test_a_handshake_that_is_never_answered(self, send: Send) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable):
            send(url=f"https://127.0.0.1:{silent.getsockname()[1]}")

    @pytest.mark.parametrize("url", ["file:///etc/hostname?", "ftp://127.0.0.1", "gopher://127.0.0.1", "nonsense://x"])
    def test_any_other_protocol(self, send: Send, url: str) -> None:
        with pytest.raises(Unavailable):
            send(url=url)

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
    def test_old_tls(self, wire: Wire, tmp_path: Path, version: ssl.TLSVersion) -> None:
        wire.tls = make_certificate(tmp_path / "certificate.pem")
        wire.tls.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLS"):
            wire.tls.minimum_version = wire.tls.maximum_version = version
        request = Request("GET", wire.url.replace("http", "https"), "GET /", {})

        with pytest.raises(Unavailable):
            event_loop().run(Connections(str(tmp_path / "certificate.pem"), 1).send(request, 2.0))

    def test_another_hosts_certificate(self, wire: Wire, tmp_path: Path) -> None:
        wire.tls = make_certificate(tmp_path / "certificate.pem")
        request = Request("GET", wire.url.replace("http://127.0.0.1", "https://localhost"), "GET /", {})

        with pytest.raises(Unavailable, match="certificate"):
            event_loop().run(Connections(str(tmp_path / "certificate.pem"), 1).send(request, 2.0))

    def test_an_expired_certificate(self, wire: Wire, tmp_path: Path) -> None:
        wire.tls = make_certificate(tmp_path / "certificate.pem", ends_in=-timedelta(days=1))
        request = Request("GET", wire.url.replace("http", "https"), "GET /", {})

        with pytest.raises(Unavailable, match="expired"):
            event_loop().run(Connections(str(tmp_path / "certificate.pem"), 1).send(request, 2.0))


def test_the_keys_of_tls_connections_are_never_written_to_a_file(wire: Wire, tmp_path: Path) -> None:
    wire.tls = make_certificate(tmp_path / "certificate.pem")
    script = (
        "import requests; from worker.http import Transport\n"
        f"request = requests.Request('GET', {wire.url.replace('http', 'https')!r}).prepare()\n"
        f"assert Transport({str(tmp_path / 'certificate.pem')!r}).send(request, 5.0).status == 200\n"
    )
    environment = os.environ | {"SSLKEYLOGFILE": str(tmp_path / "keys")}

    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=30)

    assert len(wire.requests) == 1
    assert not (tmp_path / "keys").exists()


def test_a_process_ends_at_once_while_a_request_is_under_way(wire: Wire) -> None:
    wire.answer = lambda connection, request: None  # never
    script = (
        "import time; from worker.http import event_loop; from worker.http.connections import Connections\n"
        "from worker.http.curl import Request\n"
        f"request = Request('POST', {wire.url!r}, 'POST /', {{}}, b'{{}}')\n"
        "event_loop().submit(Connections(None, 1).send(request, 30.0)); time.sleep(0.2)\n"
    )

    ran = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, timeout=10)

    assert (ran.returncode, ran.stderr) == (0, "")
    assert len(wire.requests) == 1


def test_an_error_shows_no_secret_in_any_frame(wire: Wire, send: Send) -> None:
    wire.answer = lambda connection, request: True
    request = Request("POST", wire.url, "POST /x", {"Authorization": "Bearer very-secret"}, b"very-secret")

    with pytest.raises(UnknownOutcome) as caught:
        event_loop().run(Connections(None, 1).send(request, 1.0))

    shown = traceback.TracebackException(UnknownOutcome, caught.value, caught.value.__traceback__, capture_locals=True)
    here = [frame for frame in shown.stack if "worker" in frame.filename]
    assert here
    assert "very-secret" not in repr([frame.locals for frame in here]) + str(caught.value)


class TestRequestsFace:
    def test_login_and_refresh_are_prepared_by_requests(self, wire: Wire) -> None:
        wire.answer = answers(
            b"HTTP/1.1 302 Found\r\nLocation: http://[\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}"
        )
        transport = Transport(None)
        request = requests.Request("POST", wire.url + "/x?y=z", json={"name": "Zoë"}, headers={"X": "y"}).prepare()

        for _ in range(2):
            answer = transport.send(request, 2.0)
            assert (answer.status, answer.headers["location"], answer.body) == (302, "http://[", b"{}")
        assert wire.connections == 2
        assert wire.requests[1].startswith(b"POST /x?y=z HTTP/1.1\r\n")
        assert b"Cookie" not in wire.requests[1]


def test_this_machine_can_send_requests() -> None:
    check()


def test_a_file_of_certifi_without_certificates_is_found_before_a_request(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "absent.pem"))

    with pytest.raises(SettingsError, match=r"the file of certifi's certificates is not usable: .*absent\.pem"):
        check()


FRAGMENTS = [
    OK, OK[:30], b"HTTP/1.1 ", b"HTTP/2 ", b"103 Early Hints", b"200 OK", b"204 x", b"\r\n", b"\r\n\r\n", b"\n", b": ",
    b"{}", b"0\r\n", b"2", b"-1", b"99999999999999999999", b"Content-Length: ", b"Transfer-Encoding: chunked",
    b"Connection: close", b"Content-Encoding: gzip", gzip.compress(b"{}"), b"\x00", b"Location: http://[",
]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


class TestAnyBytes:
    @given(pieces=st.lists(st.binary(max_size=40) | st.sampled_from(FRAGMENTS), max_size=12), close=st.booleans())
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_give_an_answer_or_one_of_our_errors_within_the_deadline(
        self, server: Wire, pieces: list[bytes], close: bool
    ) -> None:
        server.answer = answers(b"".join(pieces), close=close)
        connections = Connections(None, 1)
        request = Request("POST", server.url + "/x", "POST /x", {}, b"{}", True)
        result: Any = None

        for _ in range(2):  # the second one may meet what the first one has left
            before, started = len(server.requests), time.monotonic()
            try:
                result = event_loop().run(connections.send(request, 0.15))
            except B2CopyError as error:
                result = error
            assert time.monotonic() - started < 10
            assert len(server.requests) - before <= 1
            if isinstance(result, Unavailable):  # on a busy machine the deadline may pass before anything is sent
                assert len(server.requests) == before
            else:
                assert isinstance(result, UnknownOutcome) or 200 <= result.status < 1000
