"""What is stored of a bad message: printable ASCII, bounded, with length and digest of the whole."""

import hashlib

import pytest

from worker.messages.bad_message_text import PROBLEM_LIMIT, bounded_ascii, short


class Silent:
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("plain text", "plain text"),
        (b"bytes", "bytes"),
        ("é\x00\n\ud800", "\\xe9\\x00\\n\\xed\\xa0\\x80"),
        (b"\xff", "\\xff"),
        ('{"a": "\\u0000"}', '{"a": "\\u0000"}'),
        ("", ""),
    ],
    ids=repr,
)
def test_any_text_becomes_printable_ascii(given: str | bytes, stored: str) -> None:
    assert bounded_ascii(given) == stored
    assert stored == "" or (stored.isascii() and stored.isprintable())


@pytest.mark.parametrize("given", ["x" * 11, "é" * 3, "x" * 9 + "\n\n"], ids=repr)
def test_what_is_longer_than_the_limit_is_cut_and_its_length_and_digest_are_added(given: str) -> None:
    raw = given.encode()

    assert bounded_ascii(given, 10).endswith(f" ... ({len(raw)} bytes, sha256 {hashlib.sha256(raw).hexdigest()})")
    assert len(bounded_ascii(given, 10).partition(" ... ")[0]) == 10


def test_what_is_as_long_as_the_limit_is_whole() -> None:
    assert bounded_ascii("x" * 10, 10) == "x" * 10
    assert bounded_ascii("é\n", 6) == "\\xe9\\n"


def test_so_much_is_stored_of_a_message_of_its_problem_and_of_a_name() -> None:
    stored = [bounded_ascii("x" * 9000), bounded_ascii("x" * 9000, PROBLEM_LIMIT), short("x" * 9000)]

    assert [len(text.partition(" ... ")[0]) for text in stored] == [4000, 500, 150]


def test_any_value_becomes_one_short_line() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]

    assert (short("two\nlines"), short(7), short(None)) == ("two\\nlines", "7", "None")
    assert short(10**5000) == "a int that cannot be written"
    assert short(Silent()) == "a Silent that cannot be written"
    assert short(nested) == "a list that cannot be written"
    assert short("x" * 151).startswith("x" * 150 + " ... (151 bytes")
