"""Any answer whatever of a token endpoint is a pair that can be used, or an error of ours."""

import base64
import json
import socket
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.conftest import Configure, Member
from tests.http.raw_server import Wire
from tests.session.frames import shown_by
from worker.errors import B2CopyError, CredentialsRejected, RateLimited, SessionUnavailable, Unavailable
from worker.http import USER_AGENT, Answer
from worker.session.secret import Secret
from worker.session.token_endpoints import TOKEN_LIMIT, NotFromTheApi, accepted, read_pair
from worker.session.tokens import LIFE_MAX_S, Pair

PRESENTED = Secret("presented-canary")


def pair_of(status: int, headers: dict[str, str], body: bytes) -> Pair | B2CopyError:
    try:
        answer = accepted(Answer(status, headers, body), "POST /x", PRESENTED, 300.0)
        return read_pair(answer, "POST /x")
    except B2CopyError as error:
        return error


OBJECT, HTML = b'{"message": "no"}', b"<html>Request blocked</html>"
PAIR = b'{"accessToken": "a", "refreshToken": "r"}'
REFUSED = b"HTTP/1.1 401 X\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
TWO_VALUES = b'{"errors": {"password": "wrong", "password": "locked soon"}}'


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (199, OBJECT, Unavailable),
        (300, PAIR, Unavailable),
        (199, PAIR, Unavailable),
        (302, HTML, Unavailable),
        (399, OBJECT, Unavailable),
        (400, OBJECT, CredentialsRejected),
        (400, HTML, NotFromTheApi),
        (400, b"[]", NotFromTheApi),
        (401, OBJECT, CredentialsRejected),
        (401, HTML, CredentialsRejected),
        (402, b"", NotFromTheApi),
        (403, OBJECT, CredentialsRejected),
        (403, HTML, NotFromTheApi),
        (404, OBJECT, NotFromTheApi),
        (405, OBJECT, CredentialsRejected),
        (407, OBJECT, Unavailable),
        (408, OBJECT, Unavailable),
        (409, OBJECT, CredentialsRejected),
        (421, OBJECT, Unavailable),
        (422, TWO_VALUES, CredentialsRejected),
        (425, OBJECT, Unavailable),
        (429, OBJECT, RateLimited),
        (430, OBJECT, CredentialsRejected),
        (499, OBJECT, CredentialsRejected),
        (500, OBJECT, Unavailable),
        (503, HTML, Unavailable),
    ],
)
def test_each_status_of_a_token_endpoint_has_its_error(status: int, body: bytes, kind: type[B2CopyError]) -> None:
    found = pair_of(status, {}, body)

    assert type(found) is kind
    assert (found.status, found.retry_after) == (status, None)
    assert found.message == "POST /x"


@pytest.mark.parametrize("status", [200, 201, 203, 299])
def test_a_pair_is_taken_from_any_2xx_as_from_any_other_route(status: int) -> None:
    found = pair_of(status, {}, PAIR)

    assert isinstance(found, Pair)
    assert found.access.reveal() == "a"


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (200, OBJECT, "the answer holds no usable access token"),
        (201, OBJECT, "the answer holds no usable access token"),
        (204, b"", "the answer is not JSON"),
        (299, b"[]", "the answer is not a JSON object"),
    ],
)
def test_a_2xx_without_a_pair_is_no_pair_and_quotes_nothing(status: int, body: bytes, problem: str) -> None:
    found = pair_of(status, {}, body)

    assert type(found) is Unavailable
    assert found.args == (f"POST /x: {problem}", status, None, None)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("header", "seconds"), [("0", 0.0), ("7", 7.0), ("300", 300.0), ("301", 300.0)])
def test_a_token_endpoint_is_obeyed_for_five_minutes(status: int, header: str, seconds: float) -> None:
    found = pair_of(status, {"Retry-After": header}, b"")

    assert isinstance(found, B2CopyError)
    assert found.retry_after == seconds


def test_an_answer_that_gives_two_values_to_one_name_is_no_pair_and_is_called_so() -> None:
    found = pair_of(200, {}, b'{"accessToken": "a", "id": 1, "id": 2}')

    assert isinstance(found, Unavailable)
    assert str(found) == "POST /x: the answer gives two values to one name (HTTP 200)"


def test_the_servers_text_is_one_bounded_line_without_what_was_presented() -> None:
    found = pair_of(400, {}, b"no \n such presented-canary " + b"x" * 20_000)

    assert isinstance(found, B2CopyError)
    assert (found.server_message or "").startswith("no such [redacted] xxx")
    assert len(found.server_message or "") == 200
    empty = pair_of(400, {}, b"")
    assert isinstance(empty, B2CopyError)
    assert empty.server_message is None


def test_a_request_to_a_token_endpoint_says_who_asks_and_what_it_takes(
    wire: Wire, member: Member, configure: Configure
) -> None:
    wire.login = wire.answer = lambda connection, request: connection.sendall(REFUSED)

    with pytest.raises(CredentialsRejected):
        member(configure(host=wire.url)).renew()

    headers = wire.requests[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert {f"User-Agent: {USER_AGENT}", "Accept: application/json"} <= set(headers)


@pytest.mark.parametrize(
    ("body", "refresh", "life_s"),
    [
        ({"accessToken": "a", "refreshToken": "r", "expiresIn": 300}, "r", 300.0),
        ({"access_token": "a", "refresh_token": "r", "expires_in": 300}, "r", 300.0),
        ({"accessToken": "a", "refreshToken": "r r"}, None, None),
        ({"accessToken": "a", "refreshToken": 7, "expiresIn": "soon"}, None, None),
        ({"accessToken": "a"}, None, None),
    ],
)
def test_a_pair_has_either_spelling_and_may_lack_all_but_the_access_token(
    body: dict[str, Any], refresh: str | None, life_s: float | None
) -> None:
    found = pair_of(200, {}, json.dumps(body).encode())

    assert isinstance(found, Pair)
    assert found.access.reveal() == "a"
    assert (found.refresh.reveal() if found.refresh else None) == refresh
    assert found.life_s == life_s


def test_a_token_must_fit_into_a_header() -> None:
    assert isinstance(pair_of(200, {}, json.dumps({"accessToken": "x" * 16_384}).encode()), Pair)
    assert isinstance(pair_of(200, {}, json.dumps({"accessToken": "x" * 16_385}).encode()), Unavailable)


TEXT = st.text(st.characters(), max_size=20)
TOKENS = TEXT | st.sampled_from(["a", "x" * TOKEN_LIMIT, "x" * 900_000, "two words", "new\nline", "\ud800", ""])
NESTED = base64.urlsafe_b64encode(b'{"exp":' * 50_000).decode()
JWTS = st.sampled_from([f"a.{NESTED}.c", "a.b.c", "a..c"])
ODD_LIVES: list[Any] = [1e400, -1, 0, 10**400, "²", "300", True, [], {}, None, float("nan")]
LIVES = st.sampled_from(ODD_LIVES) | st.integers() | st.floats() | TEXT
PAIRS = st.fixed_dictionaries(
    {},
    optional={
        "accessToken": TOKENS | JWTS | LIVES,
        "access_token": TOKENS,
        "refreshToken": TOKENS | LIVES,
        "expiresIn": LIVES,
        "expires_in": LIVES,
    },
).map(lambda pair: json.dumps(pair).encode())
DEEP = st.integers(1, 50_000).map(lambda depth: b'{"accessToken":' * depth)
BODIES = st.binary(max_size=100) | PAIRS | DEEP | TEXT.map(lambda text: json.dumps(text).encode())
ODD_HEADERS = ["²", "-1", "1e400", "9" * 400, "Mon, 01 Jan 0001 00:00:00 -0000", "Fri, 31 Dec 9999 23:59:59 GMT"]
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "Date"]),
    st.sampled_from(ODD_HEADERS) | st.text(st.characters(codec="latin-1"), max_size=30),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(status=st.sampled_from([200, 429, 503, 401]) | st.integers(100, 999), headers=HEADERS, body=BODIES)
@example(status=200, headers={}, body=b'{"accessToken": "a", "expiresIn": 1e400}')
@example(status=200, headers={"Date": ODD_HEADERS[4]}, body=b'{"accessToken": "a.eyJleHAiOjF9.c"}')
@example(status=429, headers={"Retry-After": "²"}, body=b"presented-canary")
def test_any_answer_is_a_usable_pair_or_an_error_of_ours(status: int, headers: dict[str, str], body: bytes) -> None:
    found = pair_of(status, headers, body)

    if isinstance(found, Pair):
        assert f"Bearer {found.access.reveal()}".isprintable()
        assert len(found.access.reveal()) <= TOKEN_LIMIT
        assert found.life_s is None or 0 < found.life_s <= LIFE_MAX_S
    else:
        assert isinstance(found, Unavailable | RateLimited | CredentialsRejected)
        assert found.retry_after is None or 0 <= found.retry_after <= 300
        assert len(str(found).encode()) < 1000
        assert "presented-canary" not in str(found)
        assert not [where for where, text in shown_by(found) if "presented-canary" in text]


@pytest.mark.parametrize("lacking", [{"accessToken": 7}, {"accessToken": "x" * 900_000}, {}, {"accessToken": "a b"}])
def test_an_error_about_a_pair_holds_nothing_of_it(lacking: dict[str, Any]) -> None:
    body = json.dumps({"refreshToken": "refresh-canary", "id_token": "access-canary", **lacking}).encode()

    found = pair_of(200, {}, body)

    assert isinstance(found, Unavailable)
    assert "canary" not in str(found)
    assert not [where for where, text in shown_by(found) if "canary" in text]


@pytest.mark.parametrize(
    "body",
    [
        b'{"accessToken": "' + b"x" * 900_000 + b'"}',
        b'{"accessToken":' * 50_000,
        b'{"accessToken": "\\ud800", "refreshToken": "\\ud800"}',
        b"\xff\xfe\x00",
    ],
    ids=["900 KB token", "nested 50,000 deep", "lone surrogates", "not text"],
)
def test_callers_wait_while_a_login_is_answered_with_rubbish(
    wire: Wire, member: Member, configure: Configure, body: bytes
) -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    wire.login = wire.answer = answer
    session = member(configure(host=wire.url), login_attempts=1)

    started = time.monotonic()
    with pytest.raises(SessionUnavailable) as caught:
        session.current(wait=1.0)

    assert time.monotonic() - started < 10
    assert caught.value.retry_after
