"""No secret passes, in whatever form it is written, and a line of JSON stays one."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from worker.watch.redact import MASK, redacted, redacted_value

NAMES = ("access_token", "accessToken", "refresh_token", "external_token", "secret_key", "password", "X-Auth-Token")

opaque = st.text("abcXYZ019-._~+/=", min_size=6, max_size=30).map(lambda text: f"canary{text}yranac")
awkward = st.text("ab1@:/,;\"'\\{}[]&=%#?", min_size=1, max_size=20).map(lambda text: f"canary{text}yranac")
name = st.sampled_from(NAMES)

# Each turns a value that may be a mapping or a text into a text or a mapping around it.
WRAPPERS: tuple[Callable[[Any], Any], ...] = (
    lambda value: json.dumps({"message": value, "ok": True}),
    lambda value: json.dumps([value, 1], ensure_ascii=False, indent=1),
    lambda value: {"body": value, "status": 200},
    lambda value: [value, "other"],
    lambda value: repr({"answer": value}),
    lambda value: f"POST /x answered {value} (HTTP 400)",
)


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@st.composite
def nested(draw: st.DrawFn, value: Any) -> str:
    for wrap in draw(st.lists(st.sampled_from(WRAPPERS), max_size=5)):
        value = wrap(value)
    return as_text(value)


def leaks(text: str) -> bool:
    return "canary" in text or "yranac" in text


def is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@given(st.data(), name, opaque | awkward)
def test_a_named_secret_does_not_pass_at_any_depth(data: st.DataObject, name: str, secret: str) -> None:
    text = data.draw(nested({name: secret, "login": "7"}))

    cleaned = redacted(text)

    assert not leaks(cleaned)
    assert is_json(cleaned) or not is_json(text)


@given(st.data(), opaque)
def test_headers_do_not_pass(data: st.DataObject, secret: str) -> None:
    form = data.draw(
        st.sampled_from(
            [
                f"Authorization: Bearer {secret}",
                f"authorization: {secret}",
                f"Cookie: a=1; session={secret}; b=2",
                {"Authorization": f"Bearer {secret}"},
                [["X-Auth-Token", secret], ["Accept", "*/*"]],
                str([("Authorization", f"Bearer {secret}"), ("Proxy-Authorization", f"Basic {secret}")]),
                f"headers={{b'Authorization': b'Bearer {secret}', 'Accept': 'x'}}",
            ]
        )
    )
    text = data.draw(nested(form))

    cleaned = redacted(text)

    assert not leaks(cleaned)
    assert is_json(cleaned) or not is_json(text)


@given(st.data(), awkward.filter(lambda text: not set(text) & set("&#?")))
@example(None, "canary@yranac")
def test_passwords_of_urls_do_not_pass(data: st.DataObject | None, secret: str) -> None:
    forms = [
        f"redis://:{secret}@redis.example:6379/0",
        f"postgresql+psycopg://b2copy:{secret}@db.example/ledger",
        f"rediss://redis.example/0?username=u&password={secret}&db=0",
        f"connection to https://me@corp.example:{secret}@b2copy.example failed",
    ]
    for form in forms:
        text = data.draw(nested(form)) if data else form
        cleaned = redacted(text)
        assert not leaks(cleaned)
        assert is_json(cleaned) or not is_json(text)


@given(opaque, st.integers(0, 60))
def test_what_was_cut_off_in_the_middle_of_a_secret_does_not_pass(secret: str, cut: int) -> None:
    text = json.dumps({"message": json.dumps({"refresh_token": secret})})

    assert not leaks(redacted(text[:-cut] if cut else text))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "Bearer canary-1", "a": "the second of two equal names"}',
        '{"message": "{\\"access_token\\": \\"canary-2\\"}"}',
        '{"password": "pass\\"canary-3"}',
        "password='p\\'canary-4 x'",
        "(b'refresh_token', b'canary-5')",
        "-----BEGIN PRIVATE KEY-----\ncanary-6\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\\ncanary-7",
        "assertion=eyJhbGciOi-canary.eyJhZG1pbl9pZCI-canary.c2lnbmF0dXJl-canary",
        "redis://u:canary/b@h:6379/0",
        "host=db user=b2copy password=canary-8 dbname=ledger",
        "token == canary-9",
        "invalid token: canary0123456789abcd",
        'the access token "canary0123456789abcd" has expired',
        "bad token (canary0123456789abcd)",
        "the secret is canary0123456789abcd",
        "<ns:accessToken type='x'>canary-10</ns:accessToken>",
        '{"tokens": ["canary-11"], "credentials": {"jwt": "canary-12"}}',
        '{"tokenValue": "canary-13", "access_token_2": "canary-14"}',
        "&quot;refreshToken&quot;:&quot;canary-15&quot;",
        "%22refreshToken%22%3A%22canary-16%22",
        "password%3Dcanary-17",
        "    ['password'] => canary-18",
        "whsec_canary0123456789",
        "password\uff1acanary-19",
        '{"pwd": "canary-20", "pass": "canary-21", "otp": "canary-22", "passcode": "canary-23", "totp": "canary-24"}',
        "user=b2copy&pass=canary-25",
        "otp=canary-26",
        '{"smtp_pass": "canary-27"}',
        "--user-pass=canary-28",
    ],
)
def test_these_do_not_pass(text: str) -> None:
    cleaned = redacted(text)

    assert "canary" not in cleaned
    assert MASK in cleaned
    assert redacted(cleaned) == cleaned


@pytest.mark.parametrize(
    "text",
    [
        "operation fees.process:W1 waits: no access token: its renewal takes long",
        '{"refresh_token": null, "login": "7"}',
        "B2COPY_PRIVATE_KEY_FILE=/etc/b2copy/key.pem B2COPY_TOKEN_TTL=600",
        "the token: generation 5, fingerprint 0123456789ab",
        "http://127.0.0.1:8400/api/admin?login=7",
        "redis://[::1]:6379/0",
        "the credentials: B2COPY refused them at 12:30:45",
        "no token since 2026-11-27",
        "<token></token>",
        "the secret changes once a day",
        "all checks pass: 12 of 12, and bypass=1",
        "a footprint: 3 MB, laptop=2",
        "totp: invalid",
    ],
)
def test_other_text_is_left_alone(text: str) -> None:
    assert redacted(text) == text


def test_values_are_redacted_before_they_are_serialised() -> None:
    value = {"payload": {"password": "canary", "login": "7"}, "steps": [{"url": "redis://:canary@h"}], "token": 5}

    assert redacted_value(value) == {
        "payload": {"password": MASK, "login": "7"},
        "steps": [{"url": f"redis://:{MASK}@h"}],
        "token": MASK,
    }


def test_a_hostile_text_costs_no_more_than_its_length() -> None:
    from time import process_time

    for piece in (
        "<token a>",
        "&quot;token&quot;",
        "token a1a1a1a1a1a1a1a1",
        "%22token",
        "a://b:",
        "token ",
        "eyJ.",
        "password=",
        '"token":"',
        "-----BEGIN PRIVATE KEY-----",
        "x" * 64,
        '\\"',
    ):
        began = process_time()
        redacted((piece * (200_000 // len(piece))) + "token")
        assert process_time() - began < 2.0, piece


@pytest.mark.parametrize("levels", [100, 700, 5000])
def test_json_of_any_depth_is_redacted(levels: int) -> None:
    text = '{"a":' * levels + '{"password": "canary"}' + "}" * levels

    assert "canary" not in redacted(text)
    assert MASK in redacted(text)
