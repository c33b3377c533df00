"""Sign notices and verify them, as Standard Webhooks has it.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError

from worker import secret_file
from worker.errors import SettingsError

PREFIX = "whsec_"
_BYTES = range(24, 65)  # bytes that a secret may have, by the specification
_SETTING = "B2COPY_WEBHOOK_SECRET_FILE"


class Secrets:
    """The secrets of one file, newest first. During a rotation there are two: each signs, and either verifies."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self._signers = [Webhook(secret) for secret in secrets]

    def headers(self, notice_id: str, body: str, at: datetime) -> dict[str, str]:
        """Return the three headers that sign this body. `at` is when it is sent, with a time zone."""
        # The library takes the fields of `at` for UTC, whatever its zone.
        at = at.astimezone(UTC)
        return {
            "webhook-id": notice_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signer.sign(notice_id, at, body) for signer in self._signers),
        }

    def problem(self, body: bytes, headers: Mapping[str, str]) -> str | None:
        """Return why a received notice cannot be trusted, None if it can be. A timestamp may be 5 minutes off."""
        problem = "there are no secrets"
        for signer in self._signers:
            try:
                signer.verify(body, dict(headers), json_parse=False)
            except WebhookVerificationError as error:
                problem = str(error)
            except ValueError as error:  # the library does not catch what a malformed signature raises
                problem = f"malformed: {error}"
            else:
                return None
        return problem


def read_secrets(path: Path) -> Secrets:
    """Read the secrets of a file, one per line. Raises `SettingsError`."""
    lines = secret_file.read(_SETTING, path).decode("ascii", "replace").split()
    if not lines:
        raise SettingsError(
            f"{_SETTING}: {path} holds no secret: `openssl rand -base64 32 | sed s/^/{PREFIX}/` makes one"
        )
    for number, line in enumerate(lines, start=1):
        if not _is_secret(line):
            raise SettingsError(
                f"{_SETTING}: line {number} of {path} is not {PREFIX} and base64 of {_BYTES[0]} to {_BYTES[-1]} bytes"
            )
    return Secrets(lines)


def _is_secret(line: str) -> bool:
    try:
        return line.startswith(PREFIX) and len(base64.b64decode(line.removeprefix(PREFIX), validate=True)) in _BYTES
    except binascii.Error:
        return False
