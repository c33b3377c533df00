"""Whether the ledger is there, has this version's schema, and what hinders the operations in it."""

from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from worker.doctor import CheckResult
from worker.ledger import active_flags, open_ledger
from worker.ledger.database import schema_version
from worker.ledger.engine import connect
from worker.ledger.schema import HEAD
from worker.ledger.statistics import statistics
from worker.report.health import access_notes
from worker.report.sentences import paused_by
from worker.settings import LedgerSettings
from worker.watch.redact import redacted


def check(settings: LedgerSettings) -> Iterator[CheckResult]:
    url = redacted(settings.database_url)
    try:
        version = version_at(settings.database_url)
        if version is None:
            yield CheckResult("ledger", "warn", f"{url} holds no ledger yet", "`b2copy-sync migrate` makes it")
        elif version != HEAD:
            newer = version.isdigit() and version > HEAD
            remedy = "install the b2copy-sync that made it, or a newer one" if newer else "`b2copy-sync migrate`"
            yield CheckResult("ledger", "FAIL", f"{url} has schema {version}, {HEAD} is needed", remedy)
        else:
            yield CheckResult("ledger", "ok", f"{url}, schema {version}")
            yield from _hindrances(settings.database_url)
    except DBAPIError as error:
        message = str(error.orig).strip().partition("\n")[0]
        yield CheckResult("ledger", "FAIL", f"{url}: {message}", "is the database running, and the URL right?")
    except ModuleNotFoundError as error:
        yield CheckResult("ledger", "FAIL", f"the package {error.name} is absent", "install b2copy-sync[postgres]")


def version_at(url: str) -> str | None:
    """Return the schema version at `url`, or None if there is no ledger. Creates nothing, not even an SQLite file."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite" and not (parsed.database and Path(parsed.database).exists()):
        return None
    engine = connect(url)
    try:
        return schema_version(engine)
    finally:
        engine.dispose()


def _hindrances(url: str) -> Iterator[CheckResult]:
    ledger = open_ledger(url)
    try:
        for name, flag in active_flags(ledger).items():
            lane = name.removeprefix("pause:")
            what = f"{'every lane' if lane == 'all' else f'lane {lane}'} is paused" if name != lane else name
            yield CheckResult("ledger", "warn", f"{what} {paused_by(flag)}", "`b2copy-sync resume` ends a pause")
        for note in access_notes(statistics(ledger)):
            remedy = "is that address on the service admin's allow-list, and has the admin the permission?"
            yield CheckResult("ledger", "warn", note, remedy if "refuses our access" in note else "")
    finally:
        ledger.close()
