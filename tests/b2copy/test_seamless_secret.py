"""The file with the secret of seamless logins."""

from pathlib import Path

import pytest

from tests.conftest import Configure
from worker.b2copy.seamless_secret import seamless_secret
from worker.errors import SettingsError
from worker.settings import Settings


def file_with(folder: Path, content: bytes) -> Path:
    path = folder / "seamless"
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def test_a_new_secret_counts_at_once(configure: Configure, tmp_path: Path) -> None:
    settings = configure(seamless_secret_file=file_with(tmp_path, b" one \r\n"))
    assert seamless_secret(settings).get_secret_value() == "one"

    file_with(tmp_path, "zwei-ü\n".encode())
    assert seamless_secret(settings).get_secret_value() == "zwei-ü"


def test_without_the_setting_the_error_says_what_it_is(settings: Settings) -> None:
    with pytest.raises(SettingsError, match="B2COPY_SEAMLESS_SECRET_FILE is not set"):
        seamless_secret(settings)


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo", b"one\0", b"zwei-\xfc"])
def test_a_file_without_one_line_of_utf_8_text_is_refused_and_not_quoted(
    configure: Configure, tmp_path: Path, content: bytes
) -> None:
    settings = configure(seamless_secret_file=file_with(tmp_path, content))

    with pytest.raises(SettingsError, match="must hold one line of UTF-8 text") as caught:
        seamless_secret(settings)
    assert "two" not in str(caught.value)
