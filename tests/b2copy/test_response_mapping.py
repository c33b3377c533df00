"""What an HTTP answer means, whatever its shape."""

import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from worker.b2copy.response_mapping import value_of
from worker.b2copy.routes.fees import read_status
from worker.b2copy.routes.generic import route_to
from worker.errors import (
    AccessRejected,
    B2CopyError,
    Conflict,
    NotFound,
    NotFromB2Copy,
    RateLimited,
    Rejected,
    Unavailable,
    UnknownOutcome,
)
from worker.http import Answer

SENT = {"account_login": "7", "request_id": "W1"}
GENERIC = route_to("/api/admin/clients/v2/client/clientservice/update")


def answer(status: int, body: Any = b"", **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def error_of(status: int, body: Any = b"", **headers: str) -> B2CopyError:
    with pytest.raises(B2CopyError) as caught:
        value_of(answer(status, body, **headers), "the call")
    return caught.value


@pytest.mark.parametrize("value", [{"status": 2}, [], 0, None, "text", {"name": "Zoë"}])
@pytest.mark.parametrize("status", [200, 299])
def test_a_2xx_with_whole_json_is_its_value(status: int, value: Any) -> None:
    assert value_of(answer(status, value), "the call") == value


def test_the_result_of_a_generic_call_is_an_object() -> None:
    assert GENERIC.read({"id": 7}, {}) == {"id": 7}
    assert GENERIC.read([7], {}) == {"answer": [7]}


@pytest.mark.parametrize(
    ("digits", "stored"),
    [
        ("0.1", "0.1"),
        ("1000.10", "1000.1"),
        ("-2.50e3", "-2500.0"),
        ("12345678901234567.89", '"12345678901234567.89"'),
        ("0.123456789012345678", '"0.123456789012345678"'),
        ("1e999", '"1e999"'),
        ("1e99999999999999999999", '"1e99999999999999999999"'),
        ("12345678901234567890", "12345678901234567890"),
    ],
)
def test_the_result_of_a_call_holds_a_number_that_a_float_would_round_as_text(digits: str, stored: str) -> None:
    value = value_of(answer(200, b'{"balance": %s}' % digits.encode()), "the call")

    assert json.dumps(GENERIC.read(value, {})) == f'{{"balance": {stored}}}'


def test_a_mebibyte_of_decimals_is_read_in_milliseconds() -> None:
    started = time.process_time()

    assert value_of(answer(200, b"0." + b"1" * 2**20), "the call") == "0." + "1" * 2**20

    assert time.process_time() - started < 0.2


@pytest.mark.parametrize(
    "whole",
    [
        answer(204),
        answer(205),
        answer(200, Content_Length="0"),
        answer(201, Content_Length=" 0 "),
        answer(200, Content_Length="0, 0"),
        answer(200, Content_Length="00"),
        answer(200, Content_Length="0", Content_Encoding="gzip"),
        answer(200, Transfer_Encoding="chunked"),
        answer(200, Transfer_Encoding="gzip, Chunked"),
    ],
    ids=lambda whole: f"{whole.status} {dict(whole.headers)}",
)
def test_an_answer_that_says_it_has_no_body_is_whole(whole: Answer) -> None:
    assert value_of(whole, "the call") is None
    assert GENERIC.read(value_of(whole, "the call"), {}) == {}
    with pytest.raises(UnknownOutcome):
        read_status(value_of(whole, "processext"), SENT)


@pytest.mark.parametrize(
    "cut",
    [
        answer(200),
        answer(200, Content_Length=""),
        answer(200, Content_Length="10", Content_Encoding="gzip"),
        answer(200, Transfer_Encoding="identity"),
        answer(200, Transfer_Encoding=""),
        answer(200, Transfer_Encoding="chunked", Content_Encoding="br"),
    ],
    ids=lambda cut: str(dict(cut.headers)),
)
def test_an_empty_answer_that_may_have_been_cut_is_an_unknown_outcome(cut: Answer) -> None:
    with pytest.raises(UnknownOutcome):
        value_of(cut, "the call")


@pytest.mark.parametrize(
    "body",
    [
        {"error": "client not found"},
        {"id": 7, "errors": ["it exists"]},
        {"success": False, "message": "no"},
        {"ok": 0},
        {"success": "false"},
        {"code": 5, "message": "not found", "details": []},
        {"code": "NOT_FOUND", "message": "not found"},
        {"code": 7, "message": "denied", "details": [], "trace_id": "t"},
        {"status": "error", "message": "denied"},
        {"status": "FAILED", "message": "denied", "data": None},
        {"status": False, "message": "denied"},
        {"status": 400, "message": "denied", "timestamp": "2026-11-27T00:00:00Z", "path": "/api/admin"},
        {"status": "403", "message": "denied", "code": 0},
    ],
)
def test_a_200_whose_body_says_failure_is_no_result_of_a_generic_call(body: Any) -> None:
    with pytest.raises(UnknownOutcome, match="the body says failure") as caught:
        GENERIC.read(body, {})

    assert caught.value.status == 200
    assert caught.value.server_message


@pytest.mark.parametrize(
    "body",
    [
        {"error": None, "errors": [], "success": True},
        {"code": 0, "message": "", "details": []},
        {"code": 7, "message": "EUR", "name": "Euro"},
        {"code": 7},
        {"message": "accepted"},
        {"status": "failed", "id": 7},
        {"status": "failed", "id": 7, "message": "no money"},
        {"status": "error"},
        {"status": 2, "message": ""},
        {"status": 2, "message": "FEE_PROCESS_STATUS_SUCCESS"},
        {"status": "active", "message": "welcome"},
        {"status": 200, "message": "OK"},
        {"status": 404, "name": "no such page"},
        {"code": 200, "message": "OK"},
        {"code": None, "message": "accepted"},
        {"code": 7, "message": "EUR", "data": {"id": 7}},
        {"balance": 0},
    ],
)
def test_an_answer_that_only_resembles_a_failure_is_a_result(body: Any) -> None:
    assert GENERIC.read(body, {}) == body


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"status": 2',
        b"<html><h1>Just a moment...</h1></html>",
        b"OK",
        b"\xff\xfe",
        b"[" * 100_000,
        b"NaN",
        b'{"status": 3, "status": 2}',
    ],
    ids=["empty", "cut", "cut late", "html", "text", "not UTF-8", "too deep", "not a number", "two statuses"],
)
def test_a_2xx_without_whole_json_is_an_unknown_outcome(body: bytes) -> None:
    error = error_of(200, body)

    assert type(error) is UnknownOutcome
    assert error.status == 200
    assert error.server_message


def test_a_2xx_that_is_secret_is_not_quoted() -> None:
    with pytest.raises(UnknownOutcome) as caught:
        value_of(answer(200, b"https://copy.example/t0p"), "auth_url", is_secret=True)

    assert "t0p" not in repr(caught.value.args)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (101, UnknownOutcome),
        (199, UnknownOutcome),
        (300, UnknownOutcome),
        (301, UnknownOutcome),
        (302, UnknownOutcome),
        (304, UnknownOutcome),
        (307, Unavailable),
        (308, Unavailable),
        (400, Rejected),
        (401, AccessRejected),
        (403, AccessRejected),
        (404, NotFound),
        (407, Unavailable),
        (408, Unavailable),
        (409, Conflict),
        (412, Rejected),
        (413, Rejected),
        (418, Rejected),
        (421, Unavailable),
        (422, Rejected),
        (425, Unavailable),
        (426, Rejected),
        (429, RateLimited),
        (500, Unavailable),
        (499, UnknownOutcome),
        (501, Rejected),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
        (520, Unavailable),
        (599, Unavailable),
    ],
)
def test_each_status_has_its_error(status: int, kind: type[B2CopyError]) -> None:
    error = error_of(status, {"code": 1, "message": "because", "details": []})

    assert type(error) is kind
    assert (error.status, error.server_message) == (status, "because")


@pytest.mark.parametrize("status", [400, 402, 404, 405, 406, 410, 431, 451, 501])
@pytest.mark.parametrize(
    "body",
    [
        b"404 page not found",
        b"default backend - 404",
        b"<html><h1>405 Not Allowed</h1></html>",
        b"",
        b'["not found"]',
        b'"not found"',
        b"null",
        b'{"code": 5, "mess',
        b"[" * 100_000,
    ],
    ids=["Traefik", "Kubernetes", "nginx", "empty", "list", "text", "null", "cut", "too deep"],
)
def test_a_refusal_that_is_no_json_object_is_a_proxys(status: int, body: bytes) -> None:
    error = error_of(status, body)

    assert type(error) is NotFromB2Copy
    assert error.status == status
    assert str(error).startswith(f"the call: a proxy refused it, not B2COPY (HTTP {status})")


@pytest.mark.parametrize("status", [404, 405, 501])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"message": "no Route matched with those values", "request_id": "1f2"},
        {"error": "Not Found", "status": 404, "path": "/api/admin"},
        {"code": 404, "message": "Not Found"},
        {"code": "404", "message": "Not Found"},
        {"code": 0, "message": "Not Found"},
        {"code": True},
        b'{"code": 5, "code": 6}',
    ],
    ids=["empty", "Kong", "Spring", "HTTP status", "text", "no error", "boolean", "two codes"],
)
def test_a_404_of_the_admin_api_without_a_code_of_grpc_is_a_gateways(status: int, body: Any) -> None:
    with pytest.raises(NotFromB2Copy) as caught:
        value_of(answer(status, body), "the call", is_grpc=True)

    assert caught.value.status == status


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(404, 5, NotFound), (405, 1, Rejected), (501, 12, Rejected), (404, 16, NotFound)]
)
def test_a_404_of_the_admin_api_with_a_code_of_grpc_is_b2copys(status: int, code: int, kind: type[B2CopyError]) -> None:
    with pytest.raises(B2CopyError) as caught:
        value_of(answer(status, {"code": code, "message": "no", "details": []}), "the call", is_grpc=True)

    assert type(caught.value) is kind


@pytest.mark.parametrize(("status", "kind"), [(400, Rejected), (409, Conflict), (410, Rejected), (422, Rejected)])
def test_another_refusal_of_the_admin_api_needs_no_code(status: int, kind: type[B2CopyError]) -> None:
    with pytest.raises(B2CopyError) as caught:
        value_of(answer(status, {"message": "no"}), "the call", is_grpc=True)

    assert type(caught.value) is kind


@pytest.mark.parametrize(("status", "kind"), [(409, Conflict), (413, Rejected), (422, Rejected)])
def test_a_refusal_of_the_request_itself_needs_no_json(status: int, kind: type[B2CopyError]) -> None:
    assert type(error_of(status, b"<html>")) is kind


def test_the_text_of_a_proxys_refusal_is_told() -> None:
    assert error_of(404, b"404 page not found").server_message == "404 page not found"


@pytest.mark.parametrize("body", [b"{}", b'{"error": "x", "error": "y"}', b'{"code": NaN}'])
def test_a_refusal_that_is_any_json_object_is_b2copys(body: bytes) -> None:
    assert type(error_of(404, body)) is NotFound


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AccessRejected), (403, AccessRejected), (408, Unavailable), (425, Unavailable), (429, RateLimited)],
)
@pytest.mark.parametrize("body", [b"", b"<html></html>"])
def test_a_status_that_makes_operations_wait_means_the_same_with_any_body(
    status: int, kind: type[B2CopyError], body: bytes
) -> None:
    assert type(error_of(status, body)) is kind


@pytest.mark.parametrize("status", [429, 503, 408, 500])
def test_retry_after_comes_with_the_error(status: int) -> None:
    assert error_of(status, Retry_After="7").retry_after == 7.0


def test_a_redirect_names_the_setting_to_look_at() -> None:
    assert "B2COPY_HOST" in str(error_of(307, Location="https://elsewhere.example"))


@pytest.mark.parametrize("body", [b"<" * 2**20, b"<a" * 2**19, b"[" * 2**20, b'{"a":' * 2**17, b"9" * 2**20])
@pytest.mark.parametrize("status", [200, 502])
def test_a_mebibyte_of_rubbish_is_mapped_in_milliseconds(status: int, body: bytes) -> None:
    started = time.process_time()

    error = error_of(status, body)

    assert time.process_time() - started < 0.2
    assert len(str(error)) < 2500


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(st.characters(), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["status", "message", "error", "details", "request_id", "x"]), inner, max_size=5
        )
    ),
    max_leaves=20,
)
BODIES = (
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.integers(1, 3000).map(lambda depth: b'{"status": 2, "details": ' + b"[" * depth + b"]" * depth + b"}")
)
NAMES = ["Retry-After", "Date", "Content-Length", "Transfer-Encoding", "Content-Type", "Location"]
ODD_VALUES = ["²", "-1", "1e400", "Mon, 01 Jan 0001 00:00:00 GMT", "9" * 400, "0"]
HEADERS = st.dictionaries(
    st.sampled_from(NAMES), st.text(st.characters(codec="latin-1"), max_size=40) | st.sampled_from(ODD_VALUES)
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(status=st.integers(100, 999), headers=HEADERS, body=BODIES)
@example(status=429, headers={"Retry-After": "Mon, 01 Jan 0001 00:00:00 -0000"}, body=b"")
@example(status=200, headers={}, body=b'{"status": 2, "details": "\\ud800"}')
def test_any_answer_whatever_is_a_value_or_an_error_of_ours(status: int, headers: dict[str, str], body: bytes) -> None:
    whole = Answer(status, headers, body)
    for read in (GENERIC.read, read_status):
        try:
            result = read(value_of(whole, "the call"), SENT)
        except B2CopyError as error:
            shown, retry_after = str(error), error.retry_after
        else:
            shown, retry_after = json.dumps(result, ensure_ascii=False, allow_nan=False, default=repr), None
        shown.encode()
        assert retry_after is None or 0 <= retry_after <= 86400


@pytest.mark.parametrize("escape", ["\\u009b31m", "\\u202e", "\\ua7d2"])
def test_redacting_a_servers_json_turns_no_escape_into_a_character_that_steers_a_terminal(escape: str) -> None:
    body = f'{{"token": "x", "no JSON number": Infinity, "other": "{escape}"}}'.encode()

    text = Answer(400, {}, body).server_message()

    assert "[redacted]" in text
    assert text.isprintable()
