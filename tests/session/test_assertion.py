"""The assertion is what B2COPY's guide says, and nothing more."""

import time

import jwt
import pytest

from tests.conftest import Configure
from worker.session.assertion import assertion
from worker.session.key_files import signing_keys
from worker.settings import Settings


def claims(settings: Settings, now: float) -> dict[str, object]:
    signed = assertion(settings, signing_keys(settings)[0], now).reveal()
    assert jwt.get_unverified_header(signed) == {"alg": "ES256", "typ": "JWT"}
    read: dict[str, object] = jwt.decode(signed, options={"verify_signature": False})
    return read


@pytest.mark.failure_mode("F55")
def test_claims_are_the_documented_ones_with_their_types(configure: Configure) -> None:
    read = claims(configure(assertion_ttl=300), now=1_800_000_000.7)

    assert read == {
        "admin_id": 42,
        "device_ip": "127.0.0.1",
        "key_id": "test-key",
        "iss": "b2copy-sync",
        "iat": 1_799_999_970,
        "exp": 1_800_000_270,
    }
    assert {name: type(value) for name, value in read.items()} == {
        **dict.fromkeys(["admin_id", "iat", "exp"], int),
        **dict.fromkeys(["device_ip", "key_id", "iss"], str),
    }


def test_admin_id_is_a_string_where_the_setting_says_so(configure: Configure) -> None:
    assert claims(configure(admin_id_type="string"), now=0)["admin_id"] == "42"


def test_the_longest_life_is_half_an_hour(configure: Configure) -> None:
    read = claims(configure(assertion_ttl=1800), now=1_800_000_000)

    assert int(str(read["exp"])) - int(str(read["iat"])) == 1800


@pytest.mark.failure_mode("F25")
def test_each_assertion_is_dated_when_it_is_made_whatever_the_time_zone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        first, second = (int(str(claims(settings, now)["iat"])) for now in (1_800_000_000, 1_800_000_000 + 31 * 60))
    finally:
        monkeypatch.undo()
        time.tzset()

    assert (first, second - first) == (1_800_000_000 - 30, 31 * 60)


def test_the_same_second_gives_two_different_assertions(settings: Settings) -> None:
    key = signing_keys(settings)[0]

    assert assertion(settings, key, 0) != assertion(settings, key, 0)
