"""A secret that a server repeats is blanked, however its JSON encoder writes it."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

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
