"""A secret that a server repeats is blanked, however its JSON encoder writes it."""

import base64
import html
import json
import secrets
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.http.answer import Answer
from worker.watch.blank_secret import without_secret

SECRET = "pä/ss+\"wo\\rd<&>'\t😀"
WRITTEN = [
    json.dumps(SECRET),
    json.dumps(SECRET, ensure_ascii=False),
    json.dumps(SECRET).replace("/", "\\/"),  # PHP
    json.dumps(SECRET).replace("ud83d", "uD83D"),
    json.dumps(SECRET).replace('\\"', "\\u0022").replace("+", "\\u002B").replace("<", "\\u003C"),  # .NET
]


@pytest.mark.parametrize("written", WRITTEN)
def test_every_spelling_is_blanked(written: str) -> None:
    body = f'{{"message": "\\u00e4 wrong password {written[1:-1]} for a@b"}}'.encode()

    assert without_secret(body, SECRET) == b'{"message": "\\u00e4 wrong password [redacted] for a@b"}'


def _by_code(write: str) -> Callable[[str], str]:
    return lambda text: "".join(char if char.isalnum() else write.format(ord(char)) for char in text)


def _php(text: str) -> str:
    return json.dumps(text).replace("/", "\\/")[1:-1]


SPELLINGS: dict[str, Callable[[str], str]] = {
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    "PHP's JSON in JSON": lambda text: json.dumps(_php(text))[1:-1],
    "PHP's JSON in PHP's JSON": lambda text: _php(_php(text)),
    "URL": lambda text: quote(text, safe=""),
    "URL in lower case": lambda text: quote(text, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
    "URL in URL": lambda text: quote(quote(text, safe=""), safe=""),
    "HTML": html.escape,
    "HTML in HTML": lambda text: html.escape(html.escape(text)),
    "HTML, decimal": _by_code("&#{};"),
    "HTML, hexadecimal": _by_code("&#x{:X};"),
    "HTML, names": lambda text: text.replace("+", "&plus;").replace("/", "&sol;").replace("=", "&equals;"),
    "JavaScript": _by_code("\\x{:02x}"),
    "JSON, all escaped": lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "base64 of a login": lambda text: base64.b64encode(f"admin:{text}".encode()).decode(),
    "base64 of a header": lambda text: base64.b64encode(f"Bearer {text}, x".encode()).decode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("secret", ["s3cr+t/Tok=en==", "a<Pass>word&'\"", "/+=" + "k" * 40])
def test_a_secret_is_blanked_in_any_encoding(spelling: str, secret: str) -> None:
    spelled = SPELLINGS[spelling](secret)
    for body in (f"<p>wrong token: {spelled} </p>", f'{{"message": "wrong token: {spelled} "}}'):
        blanked = without_secret(body.encode(), secret)

        assert spelled.encode() not in blanked
        assert "wrong token: [redacted]" in Answer(400, {}, blanked).server_message()


def test_a_long_token_is_blanked_where_encoders_escape_it() -> None:
    secret = secrets.token_urlsafe(600).replace("-", "+").replace("_", "/")
    for spelling in ("PHP's JSON in JSON", "URL", "HTML, hexadecimal", "base64 of a header"):
        body = f'{{"message": "wrong: {SPELLINGS[spelling](secret)} "}}'.encode()

        assert without_secret(body, secret) == b'{"message": "wrong: [redacted] "}', spelling


@pytest.mark.parametrize("filling", [b"\\", b"%25", b"&amp;", b"\\/", b"QUJD", b"a"])
def test_no_answer_takes_long(filling: bytes) -> None:
    body = filling * (1024 * 1024 // len(filling)) + b"\\"
    for secret in ("/+s3cr+t/Tok=en==", secrets.token_urlsafe(600)):
        without_secret(b"\\", secret)  # the pattern is made once
        began = time.thread_time()

        assert without_secret(body, secret) == body
        assert time.thread_time() - began < 2


@settings(deadline=None)  # each secret has a pattern of its own
@example("ends with \\", True)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="~"), min_size=1, max_size=20), st.booleans()
)
def test_no_secret_stands_in_a_json_document(secret: str, ascii_only: bool) -> None:
    body = json.dumps({"echo": f"~{secret}~"}, ensure_ascii=ascii_only).encode()

    assert b"~[redacted]~" in without_secret(body, secret)


def test_other_text_is_left_alone() -> None:
    for body in (b"", b'{"a": "\\u00e4\\/"}', b"\xff\xfe\\"):
        assert without_secret(body, "secret/1") == body
    assert without_secret(b"any", "") == b"any"
