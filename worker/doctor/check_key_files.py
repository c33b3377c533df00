"""Whether the keys can be read, and by nobody else."""

import stat
from collections.abc import Iterator
from pathlib import Path

from worker.doctor import CheckResult
from worker.errors import SettingsError
from worker.session import key_files
from worker.settings import Settings


def check(settings: Settings) -> Iterator[CheckResult]:
    present = 0
    for key_id, path in zip(settings.key_id, settings.private_key_file, strict=True):
        if not path.exists():
            yield CheckResult("keys", "warn", f"{key_id}: {path} is absent", "no fault if it is written later")
            continue
        present += 1
        try:
            key_files.signing_keys(settings.model_copy(update={"key_id": [key_id], "private_key_file": [path]}))
        except SettingsError as error:
            yield CheckResult("keys", "FAIL", f"{key_id}: {error}")
        else:
            yield CheckResult("keys", "ok", f"{key_id}: {path}, P-256, mode {_mode(path)}")
    if not present:
        yield CheckResult(
            "keys", "FAIL", "no private key exists", "correct the path, or `b2copy-sync keygen` makes one"
        )
    try:
        key_files.storage_keys(settings)
    except SettingsError as error:
        yield CheckResult("keys", "FAIL", str(error))
    else:
        path = settings.storage_key_file
        yield CheckResult("keys", "ok", f"storage: {path}, mode {_mode(path)}")


def _mode(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"
