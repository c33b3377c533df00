"""Ask for many operations at once, from a file."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exits import Exit, Stop
from worker.cli.options import By, Json, Lane

if TYPE_CHECKING:
    from worker.kind import Kind

_SHOWN = 10  # unusable rows that are listed

Row = tuple[int, dict[str, Any]]  # line of the file, fields


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="CSV with a heading line, or JSON Lines (.jsonl)."
        ),
    ],
    by: By,
    kind: Annotated[str, typer.Option(help="What each row asks for: fees.process, call, ...")] = "fees.process",
    lane: Annotated[Lane, typer.Option(help="Whose share of the workers it takes; bulk never delays others.")] = "bulk",
    ignore_extra: Annotated[
        bool, typer.Option("--ignore-extra", help="Leave out columns the kind does not know.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row, record nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Ask for an operation for each row of a file.

    The columns are the kind's fields: account_login, request_id for fees.process. Every row is checked before the
    first is recorded; one that cannot be taken stops all, with its line. Rows that are known already are counted, not
    done again, so that an interrupted import is simply repeated.
    """
    from tasks import enqueue
    from tasks.registry import KINDS
    from worker.report.text import count
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(sorted(KINDS))}", param_hint="--kind")
    rows = list(_rows(file, KINDS[kind], ignore_extra))
    _check(file, KINDS[kind], rows)
    created = 0
    if not dry_run:
        created = sum(one.created for one in enqueue.many(kind, [fields for _, fields in rows], lane=lane, by=by))
    if as_json:
        output.document({"rows": len(rows), "dry_run": dry_run, "accepted": created, "known": len(rows) - created})
    elif dry_run:
        output.line(f"{count(len(rows), 'row')} can be taken; nothing was recorded")
    else:
        output.line(f"{count(created)} accepted in lane {lane}, {len(rows) - created} known already")


def _rows(file: Path, kind: "Kind[Any]", ignore_extra: bool) -> Iterator[Row]:
    """Read a file's rows. Raises `Stop` naming the line."""
    known = kind.payload.model_fields
    for line, fields in _json_lines(file) if file.suffix == ".jsonl" else _csv(file, list(known)):
        yield line, {name: value for name, value in fields.items() if name in known or not ignore_extra}


def _csv(file: Path, known: list[str]) -> Iterator[Row]:
    reader = None
    with file.open(encoding="utf-8-sig", newline="") as stream:  # -sig: spreadsheets put a mark at the beginning
        try:
            # Spreadsheets separate by what the machine's region has.
            separator = max(",;\t", key=stream.readline().count)
            stream.seek(0)
            reader = csv.DictReader(stream, delimiter=separator, strict=True)
            columns = [name.strip() for name in reader.fieldnames or []]
            if not set(columns) & set(known):
                raise Stop(Exit.USAGE, f"{file}: the first line must name the columns: {', '.join(known)}")
            reader.fieldnames = columns
            for fields in reader:
                if None in fields or None in fields.values():
                    raise Stop(Exit.USAGE, f"{file}, line {reader.line_num}: {len(columns)} columns are needed")
                # An empty cell is nothing: a field that is needed is then missing, another is left out.
                yield reader.line_num, {name: value for name, value in fields.items() if value}
        except (csv.Error, UnicodeDecodeError) as error:
            line = reader.line_num if reader else 1
            raise Stop(Exit.USAGE, f"{file}, after line {line}: not CSV in UTF-8: {error}") from None


def _json_lines(file: Path) -> Iterator[Row]:
    with file.open(encoding="utf-8-sig") as stream:
        for number, text in enumerate(stream, start=1):
            if not text.strip():
                continue
            try:
                fields = json.loads(text)
            except ValueError as error:
                raise Stop(Exit.USAGE, f"{file}, line {number}: not JSON: {error}") from None
            if not isinstance(fields, dict):
                raise Stop(Exit.USAGE, f"{file}, line {number}: must be a JSON object")
            yield number, fields


def _check(file: Path, kind: "Kind[Any]", rows: list[Row]) -> None:
    """Raise `Stop` with the rows that cannot be taken."""
    from worker.errors import BadPayload

    problems = []
    for line, fields in rows:
        try:
            kind.checked(fields)
        except BadPayload as error:
            problems.append(f"{file}, line {line}: {error}")
    if problems:
        more = [f"... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        told = [*problems[:_SHOWN], *more, f"{len(problems)} of {len(rows)} rows cannot be taken: nothing was recorded"]
        raise Stop(Exit.USAGE, "\n".join(told))
    if not rows:
        raise Stop(Exit.USAGE, f"{file}: no rows")
