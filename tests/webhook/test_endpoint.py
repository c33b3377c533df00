"""What a CRM's endpoint may do to a delivery. Only a 2xx delivers it, and nothing holds it longer than its deadline."""

import socket
import time
from pathlib import Path

import pytest

from tests.http.certificate import make_certificate
from tests.http.raw_server import Wire
from tests.http.test_wire import answers
from tests.webhook.conftest import SECRETS, MakeEndpoint
from worker.errors import B2CopyError, RateLimited, Unavailable, UnknownOutcome
from worker.flow.meaning_table import Becomes, meaning_of
from worker.http import Answer, event_loop
from worker.webhook import endpoint as module
from worker.webhook.endpoint import ANSWER_LIMIT, Endpoint
from worker.webhook.signing import Secrets

BODY = '{"type":"operation.succeeded"}'
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def deliver(endpoint: Endpoint, trace_id: str | None = None) -> Answer:
    return event_loop().run(endpoint.deliver("ntc_1_1", BODY, trace_id))


def head_and_body(request: bytes) -> tuple[str, dict[str, str], bytes]:
    """Return the request line, the headers by lower-case name, and the body."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return first, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}, body


def answer(status: str, *headers: str, body: bytes = b"no") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202 Accepted", "204 No Content"])
def test_any_2xx_delivers_a_signed_notice(endpoint: MakeEndpoint, wire: Wire, status: str) -> None:
    wire.answer = answers(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    deliver(endpoint(), TRACE)

    [request] = wire.requests
    first, headers, body = head_and_body(request)
    assert first == "POST /hooks?of=b2copy HTTP/1.1"
    assert body == BODY.encode()
    assert headers["content-type"] == "application/json"
    assert headers["traceparent"] == TRACE
    assert headers["user-agent"].startswith("b2copy-sync/")
    assert "authorization" not in headers
    assert Secrets(SECRETS[:1]).problem(body, headers) is None


def test_a_trace_id_that_is_no_trace_context_is_not_sent(endpoint: MakeEndpoint, wire: Wire) -> None:
    deliver(endpoint(), "order 7\r\nEvil: yes")

    _, headers, _ = head_and_body(wire.requests[0])
    assert not {"traceparent", "evil"} & headers.keys()


def test_a_rotated_secret_is_used_at_once(endpoint: MakeEndpoint, wire: Wire, secret_file: Path) -> None:
    used = endpoint()
    deliver(used)
    secret_file.write_text("\n".join(reversed(SECRETS)))
    deliver(used)

    _, headers, body = head_and_body(wire.requests[1])
    assert [Secrets([one]).problem(body, headers) for one in SECRETS] == [None, None]


@pytest.mark.parametrize(
    ("line", "error", "waits_s"),
    [
        (answer("301 Moved", "Location: http://127.0.0.1:1/"), Unavailable, None),
        (answer("307 Temporary Redirect", "Location: /elsewhere"), Unavailable, None),
        (answer("400 Bad Request"), Unavailable, None),
        (answer("401 Unauthorized"), Unavailable, None),
        (answer("404 Not Found"), Unavailable, None),
        (answer("409 Conflict"), Unavailable, None),
        (answer("410 Gone"), Unavailable, None),
        (answer("500 Internal Server Error"), Unavailable, None),
        (answer("503 Service Unavailable", "Retry-After: 30"), Unavailable, 30.0),
        (answer("503 Service Unavailable", "Retry-After: 86400"), Unavailable, 3600.0),
        (answer("429 Too Many Requests", "Retry-After: 7"), RateLimited, 7.0),
        (answer("429 Too Many Requests", "Retry-After: 86400"), RateLimited, 3600.0),
        (b"HTTP/1.1 200 OK\r\n", UnknownOutcome, None),
        (b"220 smtp.example.com ready\r\n", UnknownOutcome, None),
    ],
)
def test_anything_else_is_tried_again(
    endpoint: MakeEndpoint, wire: Wire, line: bytes, error: type[B2CopyError], waits_s: float | None
) -> None:
    wire.answer = answers(line, close=True)

    with pytest.raises(error) as caught:
        deliver(endpoint())

    assert caught.value.retry_after == waits_s
    assert meaning_of(caught.value).becomes in {Becomes.WAIT, Becomes.BY_ON_UNKNOWN}
    assert not meaning_of(caught.value).counted.value.startswith("yes")
    assert len(wire.requests) == 1  # a redirect is not followed


@pytest.mark.parametrize("framing", [b"Content-Length: 1073741824\r\n", b""], ids=["with a length", "without"])
def test_no_more_than_the_beginning_of_an_answer_is_read(endpoint: MakeEndpoint, wire: Wire, framing: bytes) -> None:
    sent = 0

    def pour(connection: socket.socket, request: bytes) -> bool:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n")
        while sent < 100 * ANSWER_LIMIT * 10:  # a client that reads on takes all of it
            connection.sendall(b"x" * ANSWER_LIMIT)
            sent += ANSWER_LIMIT
        return True

    wire.answer = pour

    assert deliver(endpoint()).status == 200
    assert sent < 100 * ANSWER_LIMIT


@pytest.mark.parametrize(
    "server",
    [
        pytest.param(answers(pause=5.0), id="that does not answer"),
        pytest.param(
            answers(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", *[b"x"] * 8, pause=0.25), id="that trickles"
        ),
    ],
)
def test_a_server_holds_a_delivery_no_longer_than_its_deadline(
    endpoint: MakeEndpoint, wire: Wire, server: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.3)
    wire.answer = server  # type: ignore[assignment]
    began = time.monotonic()

    with pytest.raises(UnknownOutcome):
        deliver(endpoint())

    assert time.monotonic() - began < 4.0


def test_a_dead_server_got_nothing(endpoint: MakeEndpoint) -> None:
    with pytest.raises(Unavailable) as caught:
        deliver(endpoint(webhook_url="http://127.0.0.1:1/"))

    assert meaning_of(caught.value).word == "not_sent"


@pytest.mark.parametrize("host", ["2852039166", "0xa9.0xfe.1", "0251.0376.0.1", "[::ffff:a9fe:a9fe]", "[fe80::1%251]"])
def test_an_address_that_is_link_local_is_not_connected_to(endpoint: MakeEndpoint, host: str) -> None:
    with pytest.raises(Unavailable, match="is no address to which anything may be sent") as caught:
        deliver(endpoint(webhook_url=f"http://{host}/latest/meta-data"))

    assert meaning_of(caught.value).word == "not_sent"


def test_the_address_that_a_name_has_when_it_is_connected_to_is_what_counts(
    endpoint: MakeEndpoint, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = wire.url.replace("127.0.0.1", "localhost")
    assert deliver(endpoint(webhook_url=url)).status == 200
    seen = []

    def refuses(address: str) -> bool:
        seen.append(address)
        return True

    monkeypatch.setattr(module, "is_refused_address", refuses)
    with pytest.raises(Unavailable, match="is no address to which"):
        deliver(endpoint(webhook_url=url))
    assert "127.0.0.1" in seen
    assert wire.connections == 1


def test_a_secret_that_cannot_be_read_makes_a_notice_wait(endpoint: MakeEndpoint, secret_file: Path) -> None:
    secret_file.unlink()

    with pytest.raises(Unavailable, match="B2COPY_WEBHOOK_SECRET_FILE"):
        deliver(endpoint())


def test_a_certificate_is_verified_with_the_crms_own_ca(endpoint: MakeEndpoint, wire: Wire, tmp_path: Path) -> None:
    ca_file = tmp_path / "crm.pem"
    wire.tls = make_certificate(ca_file)
    url = wire.url.replace("http:", "https:")

    assert deliver(endpoint(webhook_url=url, webhook_ca_file=ca_file)).status == 200
    with pytest.raises(Unavailable):
        deliver(endpoint(webhook_url=url))
