"""`identity`: the CRM's ids, the MT logins and B2COPY's ids, side by side; which accounts are closed at B2COPY."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exit_codes import EXITS, Exit, Stop
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import AsIs, By, Digits, DryRun, Encoding, IgnoreExtra, Json, Login, Whole, Why
from worker.cli.read_rows import csv_rows, is_json, json_rows, known_fields
from worker.cli.text_encoding import Source, open_file

if TYPE_CHECKING:
    from worker.cli.id_columns import IdColumns
    from worker.ledger import Identity

app = typer.Typer(help="Who is who: CRM ids, MT logins, B2COPY's ids.", no_args_is_help=True, epilog=EXITS)

_COLUMNS = ("platform", "login", "crm_id", "client_id", "account_id", "payment_account")


@app.command(epilog=EXITS)
def show(
    login: Annotated[str | None, typer.Argument(metavar="LOGIN", help="An MT login.")] = None,
    crm_id: Annotated[str | None, typer.Option("--crm-id", metavar="ID", help="Or the CRM's id of a client.")] = None,
    as_json: Json = False,
) -> None:
    """Show what is known of a login, or of a client of the CRM."""
    from worker.ledger import identities_of
    from worker.report.format_values import clock, with_iso_times

    if (login is None) == (crm_id is None):
        raise typer.BadParameter("give either LOGIN or --crm-id")
    with existing_ledger() as ledger:
        found = identities_of(ledger, login=login, crm_id=crm_id)
    if as_json:
        output.document([with_iso_times(asdict(one)) for one in found])
    elif found:
        output.table(
            (*_COLUMNS, "learned from", "at (UTC)", "closed (UTC)"),
            [
                (
                    *(getattr(one, name) or "" for name in _COLUMNS), one.learned_from, clock(one.learned_at or 0),
                    clock(one.closed_at) if one.closed_at else "",
                )
                for one in found
            ],
        )  # fmt: skip
    if not found:
        raise Stop(Exit.NOT_FOUND, f"nothing is known of {login or crm_id}")


OnPlatform = Annotated[
    str | None,
    typer.Option("--platform", metavar="ID", help="Its platform; needed if the login is known on more than one."),
]


@app.command(epilog=EXITS)
def close(login: Login, why: Why, by: By, platform: OnPlatform = None, as_json: Json = False) -> None:
    """Say that an account is closed at B2COPY: `reconcile` then no longer counts it as missing there.

    B2COPY is asked nothing. If it still lists an account of this login, `reconcile` says so. Refused while an operation
    that opens this account has not ended.
    """
    _mark_closed(login, platform, by, why, True, as_json)


@app.command(epilog=EXITS)
def reopen(login: Login, why: Why, by: By, platform: OnPlatform = None, as_json: Json = False) -> None:
    """Take `close` back: B2COPY must have this account again. B2COPY is asked nothing, and no account is opened."""
    _mark_closed(login, platform, by, why, False, as_json)


def _mark_closed(login: str, platform: str | None, by: str, why: str, is_closed: bool, as_json: bool) -> None:
    from worker.ledger import identities_of, mark_closed

    with existing_ledger() as ledger:
        known = [one.platform for one in identities_of(ledger, login=login) if platform in {None, one.platform}]
        if not known:
            where = f" on platform {platform}" if platform is not None else ""
            raise Stop(Exit.NOT_FOUND, f"nothing is known of {login}{where}")
        if len(known) > 1:
            platforms = ", ".join(known)
            raise Stop(Exit.USAGE, f"{login} is known on the platforms {platforms}: say which one by --platform")
        is_new = mark_closed(ledger, known[0], login, by, why, is_closed=is_closed)
    if as_json:
        output.document({"platform": known[0], "login": login, "closed": is_closed, "changed": is_new})
        return
    state = "closed" if is_closed else "not closed"
    was = "" if is_new else ", as it was before: nothing was changed"
    output.line(f"the account of {login} on platform {known[0]} counts as {state} at B2COPY{was}")


@app.command("import", epilog=EXITS)
def import_(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="CSV with a heading line, or JSON Lines; a pipe, or - for standard input."),
    ],
    encoding: Encoding = None,
    ignore_extra: IgnoreExtra = False,
    as_is: AsIs = None,
    digits: Digits = None,
    whole: Whole = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Store the identities of clients that existed before this system.

    Columns: login, and platform (1 if left out), crm_id, client_id, account_id, payment_account. Every row is checked
    before the first is stored, and a login has one row. A cell that is empty leaves what is known as it is; the same
    file again does no harm.
    """
    from worker.cli.id_columns import id_columns
    from worker.ledger import compare_identities, store_identities
    from worker.report.format_values import count

    columns = id_columns(_COLUMNS, _COLUMNS, as_is or (), digits or ())
    with ExitStack() as stack:
        source = open_file(file, encoding, stack)

        def rows() -> "Iterator[Identity]":
            return _identities(source, columns, whole, ignore_extra)

        total = sum(1 for _ in rows())
        if not total:
            raise Stop(Exit.USAGE, f"{source.name}: no rows")
        with existing_ledger() as ledger:
            found = compare_identities(ledger, rows())
            if not dry_run:
                store_identities(ledger, rows())
    if as_json:
        output.document({"rows": total, "dry_run": dry_run, **found._asdict()})
    else:
        counts = f"{found.new:,} new, {found.changed:,} changed, {found.known:,} known already"
        output.line(f"{count(total, 'row')}: {counts}{'; nothing was stored' if dry_run else ''}")


def _identities(source: Source, columns: "IdColumns", is_whole: bool, ignore_extra: bool) -> "Iterator[Identity]":
    """Read a file's rows. Raises `Stop` naming the line."""
    from pydantic import TypeAdapter, ValidationError

    from worker.errors import BadPayload
    from worker.id_fields import Id, Login
    from worker.ledger import Identity

    login, id_ = TypeAdapter[str](Login), TypeAdapter[str](Id)
    rows = json_rows(source) if is_json(source) else csv_rows(source, list(_COLUMNS), set(_COLUMNS), is_whole)
    rows = known_fields(rows, _COLUMNS, {}) if ignore_extra else rows
    seen = set[str]()  # platforms and logins: not whole rows, because a file may have a million
    for line, fields, problem in rows:
        if problem:
            raise _stop(source, line, problem)
        if unknown := sorted(fields.keys() - set(_COLUMNS)):
            is_none, it = ("is not a column", "it") if len(unknown) == 1 else ("are not columns", "them")
            there_are = f"there are {', '.join(_COLUMNS)}; --ignore-extra leaves {it} out"
            raise _stop(source, line, f"{', '.join(unknown)} {is_none}: {there_are}")
        if "login" not in fields:
            raise _stop(source, line, "login is missing")
        values: dict[str, Any] = {"platform": "1"}
        for name, value in fields.items():
            if value is None:
                continue
            try:
                values[name] = (login if name == "login" else id_).validate_python(value)
            except ValidationError as error:
                raise _stop(source, line, f"{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        try:
            columns.check(fields)
        except BadPayload as error:
            raise _stop(source, line, str(error)) from None
        if (account := f"{values['platform']}/{values['login']}") in seen:
            raise _stop(source, line, f"login {values['login']} stands in an earlier line, too: make one line of them")
        seen.add(account)
        yield Identity(**values)


def _stop(source: Source, line: int, message: str) -> Stop:
    return Stop(Exit.USAGE, f"{source.name}, line {line}: {message}")
