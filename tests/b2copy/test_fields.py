"""What a field of generation 1 is read as. A field that is only shown is None if it cannot be read."""

import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from worker.b2copy.fields import (
    Answered,
    Flag,
    Instant,
    Money,
    Needed,
    NeededNumber,
    Text,
    WholeNumber,
    named,
    object_of,
    read_as,
)
from worker.errors import UnknownOutcome


class Shown(Answered):
    text: Text = named("text", "otherText")
    number: WholeNumber = None
    money: Money = None
    instant: Instant = None
    flag: Flag = None


class Used(Answered):
    text: Needed
    number: NeededNumber


def shown(name: str, value: Any) -> Any:
    return getattr(object_of(Shown, {name: value}, "the route"), name)


@pytest.mark.parametrize(
    ("value", "text"),
    [("Zoë", "Zoë"), ("", None), (7, "7"), (0, "0"), (-7, "-7"), (True, None), (False, None), (7.5, None), ([], None)],
)
def test_a_text_is_a_text_or_a_whole_number(value: Any, text: str | None) -> None:
    assert shown("text", value) == text


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (7, 7),
        (-7, -7),
        ("7", 7),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, None),  # a column of a database may not hold it
        ("", None),
        ("7x", None),
        ("-7", None),
        ("²", None),
        ("\u0667", None),
        (7.0, None),
        (True, None),
        (None, None),
    ],
)
def test_a_whole_number_is_a_number_or_its_digits(value: Any, number: int | None) -> None:
    assert shown("number", value) == number


@pytest.mark.parametrize(
    ("value", "money"),
    [
        ("12.30", "12.30"),
        (12, "12"),
        (0.1, "0.1"),
        (-1, "-1"),
        (True, None),
        ("a lot", None),
        ("NaN", None),
        (float("inf"), None),
        ([], None),
    ],
)
def test_an_amount_is_exactly_what_came(value: Any, money: str | None) -> None:
    found = shown("money", value)

    assert found == (None if money is None else Decimal(money))
    assert money is None or str(found) == money


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        ("2024-07-18 08:19:11", datetime(2024, 7, 18, 8, 19, 11, tzinfo=UTC)),
        ("2024-07-18T08:19:11+02:00", datetime(2024, 7, 18, 8, 19, 11, tzinfo=timezone(timedelta(hours=2)))),
        ("soon", None),
        (1721290751, None),
    ],
)
def test_an_instant_without_a_zone_is_in_utc(value: Any, instant: datetime | None) -> None:
    found = shown("instant", value)

    assert found == instant
    assert instant is None or found.utcoffset() == instant.utcoffset()


@pytest.mark.parametrize(
    ("value", "flag"),
    [
        (True, True), (False, False), (1, True), (0, False), ("1", True), ("0", False), ("true", True),
        ("False", False), ("yes", None), (2, None), (None, None),
    ],
)  # fmt: skip
def test_a_flag_is_a_boolean_a_digit_or_a_word(value: Any, flag: bool | None) -> None:
    assert shown("flag", value) is flag


def test_an_object_keeps_all_that_came_and_is_read_through_an_envelope_under_either_name() -> None:
    data = {"otherText": "x", "new": {"a": 1}}

    found = read_as(Shown, "the route")({"status": 200, "data": data}, {})

    assert found.text == "x"
    assert found.raw == data
    assert "new" not in repr(found)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"text": "x"}, "without a usable number$"),
        ({"text": [], "number": "x"}, "without a usable number, text$"),
        ([], "is not an object"),
        ("x", "is not an object"),
        (None, "is not an object"),
    ],
)
def test_an_object_without_what_we_act_on_names_what_it_lacks(data: Any, message: str) -> None:
    with pytest.raises(UnknownOutcome) as caught:
        object_of(Used, data, "the route")

    assert re.search(message, caught.value.message)
    assert caught.value.status == 200  # B2COPY did answer
