"""What an HTTP answer means, whatever its shape."""

import json
import time
from email.utils import formatdate
from typing import Any

import pytest

from worker.b2copy.response_mapping import RETRY_AFTER_LIMIT, WORDS_LIMIT, retry_after, value_of, words_of
from worker.errors import (
    AccessRejected,
    B2CopyError,
    Conflict,
    NotFound,
    RateLimited,
    Rejected,
    Unavailable,
    UnknownOutcome,
)
from worker.http import Answer

DATE = "Tue, 24 Nov 2026 02:00:00 GMT"
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJhZG1pbl9pZCI6NDJ9.c2lnbmF0dXJl"


def answer(status: int, body: Any = b"", **headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw, 0.01)


def raised(status: int, body: Any = b"", *, repeatable: bool, **headers: str) -> B2CopyError:
    with pytest.raises(B2CopyError) as caught:
        value_of(answer(status, body, **headers), "the call", repeatable=repeatable)
    return caught.value


@pytest.mark.parametrize("value", [{"status": 2}, [], 0, None, "text", {"name": "Zoë"}])
def test_a_2xx_with_whole_json_is_its_value(value: Any) -> None:
    assert value_of(answer(200, value), "the call", repeatable=False) == value


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"status": 2', b"<html><h1>Just a moment...</h1></html>", b"OK", b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "cut late", "html", "text", "not UTF-8", "too deep"],
)
@pytest.mark.parametrize("repeatable", [True, False])
def test_a_2xx_without_whole_json_is_an_unknown_outcome(body: bytes, repeatable: bool) -> None:
    error = raised(200, body, repeatable=repeatable)

    assert type(error) is UnknownOutcome
    assert error.status is None  # nothing of B2COPY's own was understood: not an answer about the operation


@pytest.mark.parametrize(
    ("status", "repeated", "otherwise"),
    [
        (301, Unavailable, Unavailable),
        (302, Unavailable, Unavailable),
        (308, Unavailable, Unavailable),
        (400, Rejected, Rejected),
        (401, AccessRejected, AccessRejected),
        (403, AccessRejected, AccessRejected),
        (404, NotFound, NotFound),
        (408, Unavailable, Unavailable),
        (409, Conflict, Conflict),
        (412, Rejected, Rejected),
        (413, Rejected, Rejected),
        (418, Rejected, Rejected),
        (422, Rejected, Rejected),
        (425, Unavailable, Unavailable),
        (429, RateLimited, RateLimited),
        (500, Unavailable, UnknownOutcome),
        (501, Rejected, Rejected),
        (502, Unavailable, UnknownOutcome),
        (503, Unavailable, Unavailable),
        (504, Unavailable, UnknownOutcome),
        (520, Unavailable, UnknownOutcome),
        (599, Unavailable, UnknownOutcome),
    ],
)
def test_each_status_has_its_error(status: int, repeated: type[B2CopyError], otherwise: type[B2CopyError]) -> None:
    said = {"code": 1, "message": "because", "details": []}

    for repeatable, wanted in ((True, repeated), (False, otherwise)):
        error = raised(status, said, repeatable=repeatable)
        assert type(error) is wanted
        assert (error.status, error.server_message) == (status, "because")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"code": 5, "message": "account 7 is not found", "details": []}, "account 7 is not found"),
        ({"error": "no money"}, "no money"),
        ({"error": {"message": "no money"}}, "no money"),
        ({"errors": [{"code": "400", "message": "a"}, {"message": "b"}]}, "a; b"),
        ({"message": "a", "details": ["b", {"message": "c"}]}, "a; b; c"),
        ({"status": 3}, '{"status": 3}'),
        ({"reason": "größer"}, '{"reason": "größer"}'),
        ([], ""),
        ("plain", "plain"),
        (b"plain text", "plain text"),
        (b"<html><head><title>502</title></head>\n<body><h1>Bad  Gateway</h1></body></html>", "502 Bad Gateway"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
    ],
)
def test_the_words_are_found_in_a_body_of_any_shape(body: Any, words: str) -> None:
    assert words_of(answer(400, body).body) == words


def test_the_words_are_short_even_if_the_body_is_not() -> None:
    assert len(words_of(b"word " * 100_000)) == WORDS_LIMIT
    assert len(words_of(b"[" * 100_000)) == WORDS_LIMIT


def test_a_lone_surrogate_becomes_what_a_database_takes() -> None:
    words_of(rb'{"message": "\ud800"}').encode()


@pytest.mark.parametrize(
    "body",
    [
        {"message": f"Bearer {TOKEN} is expired"},
        {"message": f"bad token {TOKEN}"},
        {"accessToken": TOKEN, "refreshToken": TOKEN},
        f"Authorization: Bearer {TOKEN}".encode(),
    ],
)
def test_the_words_hold_no_token(body: Any) -> None:
    words = words_of(answer(400, body).body)

    assert words
    assert not any(part in words for part in TOKEN.split("."))


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ({}, None),
        ({"Retry_After": "7"}, 7.0),
        ({"Retry_After": " 7 "}, 7.0),
        ({"Retry_After": "0"}, 0.0),
        ({"Retry_After": "Tue, 24 Nov 2026 02:00:30 GMT", "Date": DATE}, 30.0),
        ({"Retry_After": "Tue, 24 Nov 2026 01:00:00 GMT", "Date": DATE}, 0.0),
        ({"Retry_After": "9" * 400}, RETRY_AFTER_LIMIT),
        ({"Retry_After": "Tue, 24 Nov 2099 02:00:00 GMT", "Date": DATE}, RETRY_AFTER_LIMIT),
        ({"Retry_After": "soon"}, None),
        ({"Retry_After": "-1"}, None),
        ({"Retry_After": "1.5"}, None),
        ({"Retry_After": "²"}, None),
        ({"Retry_After": "Tue, 99 Nov 2026 02:00:00 GMT"}, None),
        ({"Retry_After": "Tue, 24 Nov 2026 02:00:30 GMT", "Date": "yesterday"}, None),
    ],
)
def test_retry_after_is_a_number_or_a_date(told: dict[str, str], seconds: float | None) -> None:
    assert retry_after(answer(429, **told).headers) == seconds


def test_without_a_date_of_theirs_retry_after_counts_by_our_clock() -> None:
    wanted = retry_after({"Retry-After": formatdate(time.time() + 30, usegmt=True)})

    assert wanted is not None
    assert 28 <= wanted <= 30


@pytest.mark.parametrize("status", [429, 503, 408, 500])
def test_retry_after_comes_with_the_error(status: int) -> None:
    assert raised(status, repeatable=True, Retry_After="7").retry_after == 7.0


def test_a_redirect_tells_what_to_look_at() -> None:
    assert "B2COPY_HOST" in str(raised(302, repeatable=True, Location="https://elsewhere.example"))
