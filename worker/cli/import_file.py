"""`import`: request many operations at once, from a file; see how far they are, pause, resume or cancel them."""

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exit_codes import EXITS, Exit, Stop
from worker.cli.find_by_name import kind_named
from worker.cli.import_control import cancel, note_pauses, pause, resume, status
from worker.cli.options import AsIs, By, Digits, DryRun, Encoding, IgnoreExtra, Json, Lane, Whole
from worker.cli.payload_fields import id_fields, text_fields
from worker.cli.progress import progress
from worker.cli.read_rows import csv_rows, is_json, json_rows, known_fields
from worker.cli.text_encoding import PIPE, STANDARD_INPUT, open_file

if TYPE_CHECKING:
    from worker.cli.check_rows import Checked
    from worker.cli.read_rows import Row
    from worker.cli.text_encoding import Source
    from worker.ledger import Ledger
    from worker.operation import New
    from worker.operation_kind import Kind

PAUSED_LOOK_S = 1.0  # seconds between two looks whether a paused import goes on


class _FileOrCommand(typer.core.TyperGroup):
    """`import FILE` is `import file FILE`."""

    default = "file"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *self.get_help_option_names(ctx)):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_FileOrCommand,
    help="Request an operation for each row of a file: `import FILE` (`import file --help` tells its options). See how"
    " far an import is, pause, resume or cancel it.",
    no_args_is_help=True,
    epilog=EXITS,
)


def file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV with a heading line, or JSON Lines; a pipe, or - for standard input.",
        ),
    ],
    by: By,
    kind: Annotated[str, typer.Option(help="What each row requests: fees.process, call, ...")] = "fees.process",
    lane: Annotated[Lane, typer.Option(help="The lane that sends them; bulk delays no other lane.")] = "bulk",
    batch: Annotated[
        str | None,
        typer.Option(help="The import's name.", show_default="the file's name with a digest of what is in it"),
    ] = None,
    encoding: Encoding = None,
    ignore_extra: IgnoreExtra = False,
    as_is: AsIs = None,
    digits: Digits = None,
    whole: Whole = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Request an operation for each row of a file. `import FILE` is short for it.

    The columns are the kind's fields: account_login, request_id for fees.process. Every row is checked before the
    first is recorded; if one cannot be used, all such rows are listed and nothing is recorded. Rows that are known
    already are counted, not done again, so an import that was interrupted is completed by the same command. Exit code
    3 if some are cancelled, because these are never done (not with --dry-run).
    """
    from worker.cli.check_rows import Checked, check_against_ledger, check_rows
    from worker.cli.id_columns import id_columns
    from worker.cli.lost_zeros import LostZeros
    from worker.instances import ledger as our_ledger
    from worker.ledger.batches import batch_counts
    from worker.report.batch_report import lane_pauses
    from worker.settings import CrmSettings, load

    settings = load(CrmSettings)
    chosen = kind_named(kind, "--kind")
    with ExitStack() as stack:
        source = open_file(file, encoding, stack)
        name = batch or _name_of(source, kind, lane)
        is_table = not (file.suffix == ".jsonl" or is_json(source))
        extra: dict[str, None] = {}  # columns that the kind does not know, in their order
        rows = _rows(source, chosen, is_table, whole, extra if is_table or ignore_extra else None)
        columns = id_columns(chosen.payload.model_fields, id_fields(chosen), as_is or (), digits or ())
        zeros = LostZeros({*columns.as_they_are, *columns.digits}) if is_table else None

        def new_of(fields: dict[str, Any]) -> "New":
            new = chosen.new(fields, settings)
            columns.check(fields)
            return new

        checked = Checked(lane, name, by)
        with progress("checking") as seen:
            check_rows(checked, rows, new_of, zeros, seen)
        if not checked.total:
            raise Stop(Exit.USAGE, f"{source.name}: no rows")
        ledger = our_ledger()
        if extra and not ignore_extra:
            _refuse(source, checked, _extra_columns(list(extra), chosen))
        # Before the look-up, because another process may record the same file.
        recorded = batch_counts(ledger, [name])[name].recorded
        if checked.unusable == checked.conflicting:  # else it must be run again anyway
            with progress("looking up", checked.total) as seen:
                check_against_ledger(checked, ledger, seen)
        if checked.unusable:
            _refuse(source, checked)
        if checked.new:
            _begin(ledger, checked, kind, source.name, recorded, dry_run)
        created = 0 if dry_run else _record(ledger, checked)
    if as_json:
        output.document(_document(checked, name, created, dry_run))
    elif dry_run:
        output.line(f"{_counts(checked)}; nothing was recorded")
    else:
        _show_recorded(checked, name, created, lane)
    if not dry_run:
        note_pauses(lane_pauses(ledger, lane))
        _check_cancelled(checked)


def _name_of(source: "Source", kind: str, lane: str) -> str:
    """Return the same name for the same content, so that a second run goes on with the first one's import."""
    import hashlib

    stem = {STANDARD_INPUT: "stdin", PIPE: "pipe"}.get(source.name) or Path(source.name).stem
    digest = hashlib.sha256(f"{source.digest} {kind} {lane}".encode()).hexdigest()
    return f"{re.sub('[^A-Za-z0-9._-]', '_', stem)[:60]}-{digest[:8]}"


def _rows(
    source: "Source", kind: "Kind[Any]", is_table: bool, whole: bool, extra: dict[str, None] | None
) -> "Iterator[Row]":
    """Read the rows. With `extra`, leave out columns that the kind does not know, and add their names to `extra`."""
    known = kind.payload.model_fields
    rows = csv_rows(source, list(known), text_fields(kind), whole) if is_table else json_rows(source)
    return rows if extra is None else known_fields(rows, known, extra)


def _extra_columns(names: list[str], kind: "Kind[Any]") -> str:
    what = f"the column {names[0]} is no field" if len(names) == 1 else f"the columns {', '.join(names)} are no fields"
    known = ", ".join(kind.payload.model_fields)
    return f"{what} of {kind.name} ({known}): --ignore-extra leaves {'it' if len(names) == 1 else 'them'} out"


def _refuse(source: "Source", checked: "Checked", heading: str = "") -> None:
    """Raise `Stop` with the rows that cannot be used. `heading`: what is wrong with the heading, if something is."""
    from worker.report.format_values import count

    listed = sorted([(1, heading), *checked.problems] if heading else checked.problems)
    problems = [f"{source.name}, line {line}: {problem}" for line, problem in listed]
    left = checked.unusable - len(checked.problems)
    more = [f"... and {left} more"] if left else []
    conflicts = f"; {checked.conflicting} of them conflict: one key is one operation" if checked.conflicting else ""
    end = f"{checked.unusable} of {count(checked.total, 'row')} cannot be used: nothing was recorded{conflicts}"
    if not checked.unusable:
        end = "nothing was recorded"
    raise Stop(Exit.USAGE, *problems, *more, end)


def _begin(ledger: "Ledger", checked: "Checked", kind: str, source: str, recorded: int, dry_run: bool) -> None:
    """Begin the import, or continue it, and say if the ledger was restored since it began. A dry run writes nothing.

    Raises `NotAllowed` as `begin_batch` does, or if not all operations of this name (`recorded`) are in the file.
    """
    from worker.errors import NotAllowed
    from worker.ledger.batches import ANOTHER_NAME, begin_batch, check_batch
    from worker.report.batch_report import RESTORED, began_before_restore

    is_about = {"kind": kind, "lane": checked.lane, "source": Path(source).name}
    if dry_run:
        batch = check_batch(ledger, checked.batch, rows=checked.total, **is_about)
    else:
        batch = begin_batch(ledger, checked.batch, rows=checked.total, by=checked.by, **is_about)
    if (others := recorded - checked.known.total()) > 0:
        problem = f"holds operations that are not in this file (at least {others:,})"
        raise NotAllowed(f"{checked.batch} {problem}: {ANOTHER_NAME}")
    if batch is not None and began_before_restore(ledger, [batch]):
        output.note(RESTORED)


def _record(ledger: "Ledger", checked: "Checked") -> int:
    """Record the operations, and return how many are new. Waits while the import is paused.

    Raises `Stop` after Ctrl-C, with how many are recorded. After an error it prints that.
    All are given to the ledger, also those that were known when they were looked up: it decides by their keys.
    """
    from tasks.enqueue import record_in_batches

    created = done = 0
    try:
        with progress("recording", checked.total) as seen:
            for recorded in record_in_batches(checked.rows()):
                created += sum(one.created for one in recorded)
                done += len(recorded)
                seen(done)
                if checked.new:
                    _wait_while_paused(ledger, checked.batch, done, is_last=done == checked.total)
    except KeyboardInterrupt:
        raise _interrupted(ledger, checked, created) from None
    except Stop:
        raise
    except Exception:
        output.note(f"not finished: at least {done:,} of {checked.total:,} rows are recorded")
        raise
    return created


def _interrupted(ledger: "Ledger", checked: "Checked", created: int) -> Stop:
    """Return what to say after Ctrl-C. The last transaction may have been committed and is not in `created` then."""
    from worker.ledger.batches import batch_counts

    batch, total = checked.batch, checked.total
    recorded = batch_counts(ledger, [batch])[batch].recorded
    recorded = max(recorded, checked.known.total() + created)  # rows may be known from another import
    sentences = [
        f"interrupted: {recorded:,} of {total:,} rows are recorded, and the same command records the rest",
        "workers send them, unless the import or its lane is paused",
    ]
    if checked.new:  # otherwise there is no import of this name
        sentences.append(f'to cancel them, which is final: b2copy-sync import cancel {quote(batch)} --why "..." --yes')
    return Stop(Exit.WAITING, *sentences)


def _wait_while_paused(ledger: "Ledger", batch: str, done: int, is_last: bool) -> None:
    """Wait before the next rows are recorded. Raises `Stop` if the import is cancelled."""
    from worker.ledger.batches import CANCELLED, PAUSED, cancelled_text, find_batch

    is_reported = False
    while (found := find_batch(ledger, batch)) and found.decision is not None:
        if found.decision == CANCELLED:
            raise Stop(Exit.NOT_SUCCEEDED, f"ended after {done:,} rows: {cancelled_text(found)}")
        if is_last:
            output.note(f"the import is paused, by {found.decided_by}: {found.note}; its operations wait")
            return
        if found.decision == PAUSED and not is_reported:
            output.note(f"paused after {done:,} rows, by {found.decided_by}: {found.note}; it goes on when resumed")
            is_reported = True
        time.sleep(PAUSED_LOOK_S)


def _counts(checked: "Checked") -> str:
    from worker.report.format_values import count

    counts = [f"{checked.new:,} new", f"{checked.known.total():,} known{_ended_otherwise(checked)}"]
    return f"{count(checked.total, 'row')}: {', '.join(counts)}, 0 conflicting{_repeated(checked)}"


def _repeated(checked: "Checked") -> str:
    """Say how many rows ask for what an earlier row of the file asks for."""
    if not checked.repeated:
        return ""
    if checked.repeated == 1:
        return f"; 1 row repeats another row of this file (line {checked.repeated_on})"
    return f"; {checked.repeated:,} rows repeat other rows of this file (the first is line {checked.repeated_on})"


def _ended_otherwise(checked: "Checked") -> str:
    """Say of how many known operations nothing will come."""
    from worker.operation import State

    states = [f"{checked.known[state]:,} {state}" for state in (State.FAILED, State.CANCELLED) if checked.known[state]]
    return f" ({', '.join(states)})" if states else ""


def _show_recorded(checked: "Checked", batch: str, created: int, lane: str) -> None:
    from worker.report.format_values import count

    known = checked.total - checked.repeated - created
    counts = f"{count(created)} accepted in lane {lane}, {known} known already{_ended_otherwise(checked)}"
    output.line(counts + _repeated(checked))
    if checked.new or created:
        output.line(f"import {batch}: b2copy-sync import status {batch}")


def _check_cancelled(checked: "Checked") -> None:
    """Raise `Stop` if rows of the file are cancelled already."""
    from worker.operation import State
    from worker.report.format_values import count

    if cancelled := checked.known[State.CANCELLED]:
        raise Stop(
            Exit.NOT_SUCCEEDED,
            f"{count(cancelled, 'row')} will not be done: cancelled, which is final, and the same id cannot be"
            " requested again",
        )


def _document(checked: "Checked", batch: str, created: int, dry_run: bool) -> dict[str, Any]:
    return {
        "batch": batch,
        "rows": checked.total,
        "dry_run": dry_run,
        "new": checked.new,
        "known": checked.total - checked.repeated - (checked.new if dry_run else created),
        "repeated": checked.repeated,
        "known_by_state": dict(checked.known),
        "accepted": created,
    }


for command in (file, status, pause, resume, cancel):
    app.command(command.__name__, epilog=EXITS)(command)
