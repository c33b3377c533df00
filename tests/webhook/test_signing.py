"""Notices are signed as Standard Webhooks has it, with every secret of the file, and verified with any of them."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from tests.webhook.conftest import SECRETS
from worker.errors import SettingsError
from worker.webhook.signing import Secrets, read_secrets


@pytest.fixture
def now() -> datetime:
    """Return the instant of this test: the library believes a notice for five minutes."""
    return datetime.now(UTC)


def test_a_receiver_with_the_library_of_standard_webhooks_accepts_a_notice(now: datetime) -> None:
    headers = Secrets(SECRETS[:1]).headers("ntc_1_1", '{"name": "Zoë"}', now)

    assert Webhook(SECRETS[0]).verify('{"name": "Zoë"}'.encode(), headers) == {"name": "Zoë"}
    assert headers["webhook-id"] == "ntc_1_1"


@pytest.mark.parametrize("secret", SECRETS)
def test_during_a_rotation_a_receiver_may_know_either_secret(secret: str, now: datetime) -> None:
    headers = Secrets(SECRETS).headers("ntc_1_1", "{}", now)

    Webhook(secret).verify(b"{}", headers)
    assert Secrets([secret]).problem(b"{}", headers) is None
    assert Secrets(SECRETS).problem(b"{}", Secrets([secret]).headers("ntc_1_1", "{}", now)) is None


def test_the_instant_is_signed_whatever_its_time_zone(now: datetime) -> None:
    there = now.astimezone(timezone(timedelta(hours=9)))

    assert Secrets(SECRETS).headers("ntc_1_1", "{}", there) == Secrets(SECRETS).headers("ntc_1_1", "{}", now)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"webhook-id": "ntc_1_2"}, "No matching signature"),
        ({"webhook-timestamp": "1700000000"}, "too old"),
        ({"webhook-timestamp": "now"}, "Invalid"),
        ({"webhook-signature": "v1,AAAA"}, "No matching signature"),
        ({"webhook-signature": "nonsense"}, "malformed"),
        ({"webhook-signature": "v1,A"}, "malformed"),
        ({"webhook-signature": ""}, "Missing"),
    ],
)
def test_a_forged_or_malformed_notice_is_not_trusted(changes: dict[str, str], problem: str, now: datetime) -> None:
    headers = Secrets(SECRETS).headers("ntc_1_1", "{}", now) | changes

    assert problem in str(Secrets(SECRETS).problem(b"{}", headers))


def test_another_body_is_not_trusted(now: datetime) -> None:
    headers = Secrets(SECRETS).headers("ntc_1_1", "{}", now)

    assert Secrets(SECRETS).problem(b"{ }", headers)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "holds no secret"),
        ("secret", "line 1 of .* is not whsec_"),
        ("whsec_short", "line 1"),
        (f"{SECRETS[0]}\nwhsec_%%%%\n", "line 2"),
        ("whsec_" + "AAAA" * 22, "line 1"),
    ],
)
def test_a_file_without_usable_secrets_is_refused(secret_file: Path, content: str, problem: str) -> None:
    secret_file.write_text(content)

    with pytest.raises(SettingsError, match=problem) as refused:
        read_secrets(secret_file)

    assert "B2COPY_WEBHOOK_SECRET_FILE" in str(refused.value)
    assert SECRETS[0] not in str(refused.value)


def test_a_file_that_others_may_read_is_refused(secret_file: Path) -> None:
    secret_file.chmod(0o644)

    with pytest.raises(SettingsError, match="others may read"):
        read_secrets(secret_file)
