"""Whether the settings can be read, and what in the environment contradicts them."""

import ipaddress
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from worker.doctor import CheckResult
from worker.errors import SettingsError
from worker.package_conflicts import OTHER_WAYS, hiding_files
from worker.plaintext import plaintext_problem
from worker.settings import PLAINTEXT_SETTING, CrmSettings, LedgerSettings, Settings, load, variable

AnySettings = TypeVar("AnySettings", bound=LedgerSettings)


class Readable(NamedTuple):
    """The settings, as far as they can be read."""

    ledger: LedgerSettings | None
    crm: CrmSettings | None
    worker: Settings | None


def check() -> Generator[CheckResult, None, Readable]:
    """Report every problem in a result of its own. Returns what can be read, so that it is checked further."""
    for hides in hiding_files(Path.cwd()):
        message = f"{hides} hides ours from `celery -A worker.app` and from scripts in this folder"
        yield CheckResult("settings", "warn", message, OTHER_WAYS)
    try:
        worker = load(Settings)
    except SettingsError as error:
        yield from (CheckResult("settings", "FAIL", problem) for problem in str(error).splitlines())
        yield CheckResult("keys", "skip", "neither the keys nor B2COPY are checked before the settings are right")
        return Readable(_read(LedgerSettings), _read(CrmSettings), None)
    yield CheckResult("settings", "ok", f"service admin {worker.admin_id} at {worker.host}, from {worker.device_ip}")
    for field, allows in PLAINTEXT_SETTING.items():
        if plaintext_problem(getattr(worker, field) or ""):
            message = f"{variable(field)} leads to another host without verified TLS: {variable(allows)}=allowed"
            yield CheckResult("settings", "ok", message)
    yield from _contradictions(worker)
    return Readable(worker, worker, worker)


def _contradictions(settings: Settings) -> Iterator[CheckResult]:
    is_local = settings.host.startswith("http://")  # settings accept plain http to a loopback address alone
    if ipaddress.ip_address(settings.device_ip).is_private and not is_local:
        message = f"{settings.device_ip} is a private address"
        yield CheckResult("settings", "warn", message, "B2COPY_DEVICE_IP is the address that B2COPY sees")
    if proxies := sorted(name for name in os.environ if name.upper() in {"HTTPS_PROXY", "ALL_PROXY"}):
        message = f"{' and '.join(proxies)} is set and is not used: our requests go to {settings.host} directly"
        yield CheckResult("settings", "warn", message, "let the network route them, or give this host the address")


def _read(kind: type[AnySettings]) -> AnySettings | None:
    try:
        return kind()
    except ValidationError:
        return None
