"""`import`: request many operations at once, from a file."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.options import By, Json, Lane
from worker.cli.payload_fields import text_fields
from worker.cli.read_rows import csv_rows, json_rows
from worker.cli.request import kind_named

if TYPE_CHECKING:
    from worker.cli.read_rows import Row
    from worker.kind import Kind

_SHOWN = 10  # unusable rows that are listed


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="CSV with a heading line, or JSON Lines (.jsonl)."
        ),
    ],
    by: By,
    kind: Annotated[str, typer.Option(help="What each row requests: fees.process, call, ...")] = "fees.process",
    lane: Annotated[Lane, typer.Option(help="Whose share of the workers it takes; bulk never delays others.")] = "bulk",
    ignore_extra: Annotated[
        bool, typer.Option("--ignore-extra", help="Leave out columns that the kind does not know.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row, record nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Request an operation for each row of a file.

    The columns are the kind's fields: account_login, request_id for fees.process. Every row is checked before the
    first is recorded; one that cannot be used stops all, with its line and column. Rows that are known already are
    counted, not done again, so an import that was interrupted is completed by the same command.
    """
    from tasks import enqueue
    from worker.report.format_values import count
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    chosen = kind_named(kind, "--kind")
    total = _check(file, chosen, ignore_extra)
    created = 0
    if not dry_run:  # the file is read once more, so that no number of rows fills the memory
        rows = (fields for _, fields in _rows(file, chosen, ignore_extra))
        created = enqueue.many(kind, rows, lane=lane, by=by).created
    if as_json:
        output.document({"rows": total, "dry_run": dry_run, "accepted": created, "known": total - created})
    elif dry_run:
        output.line(f"{count(total, 'row')} can be recorded; nothing was recorded")
    else:
        output.line(f"{count(created)} accepted in lane {lane}, {total - created} known already")


def _rows(file: Path, kind: "Kind[Any]", ignore_extra: bool) -> "Iterator[Row]":
    """Read a file's rows. Raises `Stop` naming the line."""
    known = kind.payload.model_fields
    rows = json_rows(file) if file.suffix == ".jsonl" else csv_rows(file, list(known), text_fields(kind))
    for line, fields in rows:
        yield line, {name: value for name, value in fields.items() if name in known or not ignore_extra}


def _check(file: Path, kind: "Kind[Any]", ignore_extra: bool) -> int:
    """Return the number of rows. Raises `Stop` with the rows that cannot be used."""
    from worker.errors import BadPayload

    problems: list[str] = []
    total = unusable = 0
    for line, fields in _rows(file, kind, ignore_extra):
        total += 1
        try:
            kind.checked(fields)
        except BadPayload as error:
            unusable += 1
            if len(problems) < _SHOWN:
                problems.append(f"{file}, line {line}: {error}")
    if unusable:
        more = [f"... and {unusable - _SHOWN} more"] if unusable > _SHOWN else []
        end = f"{unusable} of {total} rows cannot be used: nothing was recorded"
        raise Stop(Exit.USAGE, *problems, *more, end)
    if not total:
        raise Stop(Exit.USAGE, f"{file}: no rows")
    return total
