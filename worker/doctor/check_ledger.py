"""Whether the ledger is there, has this version's schema, and what hinders the operations in it."""

from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from sqlalchemy import update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from worker.doctor import CheckResult, Grade, name_authority
from worker.errors import SettingsError
from worker.ledger import Ledger, active_flags, open_ledger, schema
from worker.ledger.b2copy_host import find_host_problem
from worker.ledger.engine import connect
from worker.ledger.fleet_flags import TRYING
from worker.ledger.notices import notices_wanted_until
from worker.ledger.overview import overview
from worker.ledger.reconciliation import ms_since_last_step
from worker.ledger.refused_password_flags import PREFIX as REFUSED_PASSWORD
from worker.ledger.running_workers import running_workers
from worker.ledger.schema_version import version_of
from worker.ledger.statistics import statistics_of
from worker.report.format_values import count, iso, span
from worker.report.health import access_notes, rate_limit_notes
from worker.report.sentences import paused_by
from worker.settings import CrmSettings, LedgerSettings, Settings
from worker.watch.redact import redacted


def url_problem(settings: LedgerSettings) -> str | None:
    """Return what is wrong with the options of the database's URL. Opens no connection."""
    try:
        connect(settings.database_url).dispose()
    except SettingsError as error:
        return str(error)
    except ModuleNotFoundError:  # the check of the ledger reports it
        pass
    return None


def check(settings: LedgerSettings) -> Iterator[CheckResult]:
    url = redacted(settings.database_url)
    try:
        version = version_of(settings.database_url)
        if version is None:
            yield CheckResult("ledger", "FAIL", f"{url} holds no ledger yet", "`b2copy-sync migrate` makes it")
            return
        ledger = open_ledger(settings.database_url)
        try:
            _try_to_write(ledger)
            yield CheckResult("ledger", "ok", f"{url}, schema {version}")
            yield from _b2copy_host(ledger, settings)
            yield from _versions(ledger)
            yield from _hindrances(ledger)
            yield from _notices(ledger, settings)
            yield from _reconciliation(ledger, settings)
        finally:
            ledger.close()
    except SettingsError as error:  # the schema is one that this version cannot use
        yield CheckResult("ledger", "FAIL", str(error))
    except DBAPIError as error:
        message = str(error.orig).strip().partition("\n")[0]
        yield CheckResult("ledger", "FAIL", f"{url}: {message}", _remedy(message, settings.database_url))
    except ModuleNotFoundError as error:
        yield CheckResult("ledger", "FAIL", f"the package {error.name} is absent", "install b2copy-sync[postgres]")


def _b2copy_host(ledger: Ledger, settings: LedgerSettings) -> Iterator[CheckResult]:
    """Say so if the ledger belongs to another B2COPY than the one of this host's settings."""
    if not isinstance(settings, Settings):
        return
    with ledger.reading() as connection:
        problem = find_host_problem(connection, settings.host)
    if problem:
        yield CheckResult("ledger", "FAIL", problem)


def _versions(ledger: Ledger) -> Iterator[CheckResult]:
    """Say which code the workers run, and whether they have different rate limits."""
    with ledger.reading() as connection:
        workers = running_workers(connection)
    if not workers:
        return  # the check of the workers reports it
    message = ", ".join(f"{each.version} on {each.host} (pid {each.pid})" for each in workers)
    if len({each.version for each in workers}) == 1:
        yield CheckResult("versions", "ok", message)
    else:
        remedy = "if no upgrade is under way, restart the workers that run the older one"
        yield CheckResult("versions", "warn", f"workers of several versions run: {message}", remedy)
    for note in rate_limit_notes(workers):
        yield CheckResult("ledger", "warn", note)


def _hindrances(ledger: Ledger) -> Iterator[CheckResult]:
    seen = overview(ledger)
    open_in = {lane.lane: lane.open for lane in seen.lanes}
    for name, flag in active_flags(ledger).items():
        if name.startswith(REFUSED_PASSWORD):
            message = f"the Back Office refused the password {paused_by(flag)}"
            remedy = "correct it; if it is right now: `b2copy-sync session forget --login back_office`"
            yield CheckResult("ledger", "warn", message, remedy)
            continue
        if name.startswith(TRYING):
            continue
        lane = name.removeprefix("pause:")
        what = f"{'every lane' if lane == 'all' else f'lane {lane}'} is paused" if name != lane else name
        held = sum(open_in.values()) if lane == "all" else open_in.get(lane, 0)
        remedy = f'`b2copy-sync resume --lane {lane} --why "..."`'
        grade: Grade = "FAIL" if held else "warn"
        yield CheckResult("ledger", grade, f"{what} {paused_by(flag)} ({count(held)} waiting)", remedy)
    for note in access_notes(statistics_of(seen)):
        is_refused = "refuses our access" in note
        remedy = (
            "ask B2COPY support to put that address on the service admin's allow-list. If our address is another one"
            " now, correct B2COPY_DEVICE_IP and restart the workers. Then: `b2copy-sync session renew`"
        )
        yield CheckResult("ledger", "FAIL" if is_refused else "warn", note, remedy if is_refused else "")


def _notices(ledger: Ledger, settings: LedgerSettings) -> Iterator[CheckResult]:
    """Compare what the ledger says about notices with this host's settings."""
    until = notices_wanted_until(ledger)
    if until is not None and not settings.wants_notices:
        message = f"the CRM wants notices until {iso(until)}, and this host has no B2COPY_WEBHOOK_URL or _NOTIFY_TASK"
        remedy = (
            "set it for every worker. If nobody wants notices any more, leave it out everywhere: workers then cancel"
            ' what still waits. Until then `b2copy-sync pause --lane notify --why "..."` ends the alert NobodyWorks'
        )
        yield CheckResult("notices", "warn", message, remedy)
    if until is None and settings.wants_notices:
        message = "the settings ask for notices, and no worker with them has started in days: no notice is recorded"
        remedy = "restart the workers with B2COPY_WEBHOOK_URL or B2COPY_NOTIFY_TASK"
        yield CheckResult("notices", "warn", message, remedy)


def _reconciliation(ledger: Ledger, settings: LedgerSettings) -> Iterator[CheckResult]:
    """Say whether the scheduled reconciliation is made. Beat starts it, and has a B2COPY_RECONCILE_EVERY of its own."""
    if not isinstance(settings, CrmSettings) or settings.reconcile_every is None:
        return
    for_s = (ms_since_last_step(ledger) or 0) / 1000
    if for_s > 2 * settings.reconcile_every:
        every = span(settings.reconcile_every)
        message = f"B2COPY_RECONCILE_EVERY is {every}, and the accounts have not been compared for {span(for_s)}"
        remedy = "unless a worker's log says why it waits, start beat with that setting too: `b2copy-sync beat`"
        yield CheckResult("reconcile", "warn", message, remedy)


def _try_to_write(ledger: Ledger) -> None:
    """Write one value: a full disk, a standby or a missing right shows only then.

    A millisecond earlier changes nothing for dispatch. Without a change, SQLite would write nothing.
    """
    with ledger.writing() as connection:
        connection.execute(update(schema.ledger).values(dispatched_at=schema.ledger.c.dispatched_at - 1))


def _remedy(message: str, url: str) -> str:
    if any(text in message for text in ("full", "No space", "disk I/O")):
        path = make_url(url).database if url.startswith("sqlite") else None
        where = f"`df -h {quote(str(Path(path).parent))}`" if path else "on the database's host, `df -h`"
        return f"make room on its disk, then everything continues by itself: {where}"
    if "does not support SSL" in message:
        return (
            "switch TLS on in PostgreSQL (ssl=on); or, where the network between is encrypted, set"
            " B2COPY_DATABASE_PLAINTEXT=allowed"
        )
    if "certificate" in message and "client certificate" not in message:
        return name_authority("B2COPY_DATABASE_CA_FILE")
    return "is the database running, and the URL right?"
