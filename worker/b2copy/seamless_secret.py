"""The secret that B2COPY and we share for seamless logins (page "Seamless authorization" of the documentation)."""

from pydantic import SecretStr

from worker.errors import SettingsError
from worker.settings import Settings

_SETTING = "B2COPY_SEAMLESS_SECRET_FILE"


def seamless_secret(settings: Settings) -> SecretStr:
    """Read the secret; the file is read again each time, so that a new one counts at once. Raises `SettingsError`."""
    from worker import secret_file  # here, because a CRM that enqueues loads no cryptography

    if settings.seamless_secret_file is None:
        raise SettingsError(f"{_SETTING} is not set: a file with the secret that the Back Office shows")
    secret = SecretStr(secret_file.read(_SETTING, settings.seamless_secret_file).decode(errors="replace").strip())
    secret_file.check_line(_SETTING, settings.seamless_secret_file, secret.get_secret_value)
    return secret
