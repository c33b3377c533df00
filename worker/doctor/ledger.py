"""Whether the ledger is there, has this version's schema, and what hinders the operations in it."""

from collections.abc import Iterator

from sqlalchemy.exc import DBAPIError

from worker.doctor import CheckResult
from worker.errors import SettingsError
from worker.ledger import Ledger, active_flags, open_ledger
from worker.ledger.database import version_of
from worker.ledger.refused_passwords import PREFIX as REFUSED_PASSWORD
from worker.ledger.statistics import statistics
from worker.report.health import access_notes
from worker.report.sentences import paused_by
from worker.settings import LedgerSettings
from worker.watch.redact import redacted


def check(settings: LedgerSettings) -> Iterator[CheckResult]:
    url = redacted(settings.database_url)
    try:
        version = version_of(settings.database_url)
        if version is None:
            yield CheckResult("ledger", "warn", f"{url} holds no ledger yet", "`b2copy-sync migrate` makes it")
            return
        ledger = open_ledger(settings.database_url)
        try:
            yield CheckResult("ledger", "ok", f"{url}, schema {version}")
            yield from _hindrances(ledger)
        finally:
            ledger.close()
    except SettingsError as error:  # the schema is one that this version cannot use
        yield CheckResult("ledger", "FAIL", str(error))
    except DBAPIError as error:
        message = str(error.orig).strip().partition("\n")[0]
        yield CheckResult("ledger", "FAIL", f"{url}: {message}", "is the database running, and the URL right?")
    except ModuleNotFoundError as error:
        yield CheckResult("ledger", "FAIL", f"the package {error.name} is absent", "install b2copy-sync[postgres]")


def _hindrances(ledger: Ledger) -> Iterator[CheckResult]:
    for name, flag in active_flags(ledger).items():
        if name.startswith(REFUSED_PASSWORD):
            message = f"the Back Office refused the password {paused_by(flag)}"
            remedy = "correct it; if it is right now: `b2copy-sync session forget --login back_office`"
            yield CheckResult("ledger", "warn", message, remedy)
            continue
        lane = name.removeprefix("pause:")
        what = f"{'every lane' if lane == 'all' else f'lane {lane}'} is paused" if name != lane else name
        yield CheckResult("ledger", "warn", f"{what} {paused_by(flag)}", "`b2copy-sync resume` ends a pause")
    for note in access_notes(statistics(ledger)):
        remedy = "is that address on the service admin's allow-list, and has the admin the permission?"
        yield CheckResult("ledger", "warn", note, remedy if "refuses our access" in note else "")
