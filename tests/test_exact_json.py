"""JSON that asks for something is read as it was written, or refused in words."""

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker import exact_json

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@given(values)
def test_what_programs_write_is_read(value: Any) -> None:
    assert exact_json.loads(json.dumps(value)) == value


@pytest.mark.parametrize("text", ["1.10", "1e2", "-0.0", "0.1", "1E+22", "5e-324", "1.7976931348623157e308", "123.000"])
def test_a_number_may_be_written_in_any_way_that_keeps_it(text: str) -> None:
    assert exact_json.loads(text) == float(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "a": 1}', "'a' is given twice"),
        ('[{"b": {"a": 1, "\\u0061": 2}}]', "'a' is given twice"),
        ("12345678901234567.891", "12345678901234567.891 has more digits than a JSON number keeps: give it as text"),
        ("0.10000000000000000001", "has more digits"),
        ("1e400", "has more digits"),
        ("1e-400", "has more digits"),
        ("1e99999999999999999999", "has more digits"),
        ("-1e-99999999999999999999", "has more digits"),
        ("0." + "1" * 500_000, "has more digits"),
        ("9" * 5_000, "digits"),
        ("NaN", "NaN is no JSON"),
        ("[-Infinity]", "-Infinity is no JSON"),
        ("[" * 100_000, "nested too deep"),
        (b"\xff", "utf-8"),
        ("", "Expecting value"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_python_would_change_is_refused(text: str | bytes, problem: str) -> None:
    began = time.monotonic()

    with pytest.raises(ValueError, match=r".") as refused:
        exact_json.loads(text)

    assert problem in str(refused.value)
    assert len(str(refused.value)) < 300
    assert time.monotonic() - began < 5


def test_objects_may_be_restored() -> None:
    assert exact_json.loads('{"a": {"b": 1}}', restore=lambda found: sorted(found)) == ["a"]
