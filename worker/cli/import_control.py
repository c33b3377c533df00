"""`import status|pause|resume|cancel`: an import as a whole. A batch of the SQL API or of `enqueue` is one, too."""

from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import output
from worker.cli.approvals import show_proposal
from worker.cli.exit_codes import Exit, Stop
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import By, Json, Why

if TYPE_CHECKING:
    from collections.abc import Iterable

    from worker.ledger import Ledger
    from worker.ledger.batches import Batch
    from worker.operation import AuditEntry
    from worker.report.batch_report import BatchReport

SWEEP_S = 600.0  # seconds; what is left after that, dispatch does

Name = Annotated[str, typer.Argument(metavar="ID", help="The import's name, as `import` and `import status` print it.")]
OptionalName = Annotated[
    str | None, typer.Argument(metavar="ID", help="The import's name.", show_default="a list of the newest imports")
]


def status(
    name: OptionalName = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="List no more than this many, newest first.")] = 20,
    as_json: Json = False,
) -> None:
    """Show how far an import is: how many operations are in each state, the rate, and the time that is left."""
    from worker.ledger.batches import list_batches
    from worker.report.batch_report import batch_reports, document

    with existing_ledger() as ledger:
        batches = list_batches(ledger, limit=limit + 1) if name is None else [_found(ledger, name)]
        reports = batch_reports(ledger, batches[:limit])
    more = len(batches) > limit
    if as_json:
        documents = [document(report) for report in reports]
        output.document({"imports": documents, "more": more} if name is None else documents[0])
        return
    if name is not None:
        _facts(reports[0])
        note_pauses(reports[0].pauses)
        return
    _table(reports)
    note_pauses({pause.subject: pause for report in reports if report.counts.open for pause in report.pauses}.values())
    if more:
        output.note(f"these are the newest {limit}: --limit shows more")


def pause(name: Name, why: Why, by: By, as_json: Json = False) -> None:
    """Start nothing more of an import until it is resumed. What was sent is finished; an import that runs waits."""
    from worker.ledger.batches import pause_batch, sweep

    with existing_ledger() as ledger:
        _found(ledger, name)
        batch = pause_batch(ledger, name, by, why)
        sweep(ledger, SWEEP_S, name)
    _report(batch, f"import {name} is paused: nothing more of it is started", as_json)


def resume(name: Name, why: Why, by: By, as_json: Json = False) -> None:
    """End the pause of an import: what waits for it is due again."""
    from worker.ledger.approvals import Approval, resume_batch_or_propose
    from worker.ledger.batches import sweep
    from worker.messages.wake_up import wake
    from worker.settings import CrmSettings, load

    settings = load(CrmSettings)
    with existing_ledger(settings) as ledger:
        batch = resume_batch_or_propose(ledger, _found(ledger, name), by, why)
        if isinstance(batch, Approval):
            show_proposal(batch, as_json)
            return
        sweep(ledger, SWEEP_S, name)
    wake(batch.lane)
    _report(batch, f"import {name} is resumed", as_json)


def cancel(
    name: Name,
    why: Why,
    by: By,
    yes: Annotated[bool, typer.Option("--yes", help="Needed if it moves money.")] = False,
    as_json: Json = False,
) -> None:
    """Cancel all operations of an import of which nothing was ever sent.

    It is final: a cancelled operation is never sent, and the same id cannot be requested again. To stop for a while:
    `import pause`.

    What was sent cannot be cancelled: B2COPY continues it, and workers ask until it has ended. After a restore, what
    may have been done since the backup ends as unresolved instead: look at B2COPY.
    """
    from worker.ledger.approvals import Approval, cancel_batch_or_propose
    from worker.ledger.batches import batch_counts, beyond_recall, count_perhaps_done, sweep
    from worker.operation import State
    from worker.report.format_values import count

    with existing_ledger() as ledger:
        found, perhaps_done = _found(ledger, name), count_perhaps_done(ledger, name)
        _check_yes(yes, ledger, found)
        batch = cancel_batch_or_propose(ledger, found, by, why)
        if isinstance(batch, Approval):
            show_proposal(batch, as_json)
            return
        sweep(ledger, SWEEP_S, name)
        cancelled = batch_counts(ledger, [name])[name].states.get(State.CANCELLED, 0)
        beyond = beyond_recall(ledger, name)
    continues = f"{beyond:,} not: sent already, or being sent"
    text = f"import {name} is cancelled: {count(cancelled)} cancelled, {continues}"
    _report(batch, text, as_json, cancelled=cancelled, beyond_recall=beyond, unresolved=perhaps_done)
    if perhaps_done and not as_json:
        output.line(
            f"{count(perhaps_done)} may have been done before the ledger was restored, and end as unresolved:"
            " `b2copy-sync failed list --reason unresolved`"
        )


def _check_yes(yes: bool, ledger: "Ledger", batch: "Batch") -> None:
    """Raise `Stop` if an operation that would be cancelled moves money and --yes is not given."""
    from tasks.registry import ALL_KINDS
    from worker.ledger.batches import kinds_and_lanes
    from worker.report.replayable import moves_money

    if not yes and any(moves_money(kind, lane, ALL_KINDS) for kind, lane in kinds_and_lanes(ledger, batch)):
        raise Stop(
            Exit.USAGE,
            f"import {batch.id} moves money. To cancel it is final: a cancelled operation is never sent, and the same"
            " id cannot be requested again. To stop for a while:"
            f' b2copy-sync import pause {quote(batch.id)} --why "..."; to cancel: --yes',
        )


def _found(ledger: "Ledger", name: str) -> "Batch":
    from worker.ledger.batches import find_batch

    batch = find_batch(ledger, name)
    if batch is None:
        raise Stop(Exit.NOT_FOUND, f"{name}: there is no such import; `b2copy-sync import status` lists them")
    return batch


def _report(batch: "Batch", text: str, as_json: bool, **numbers: int) -> None:
    if as_json:
        output.document({"batch": batch.id, "decision": batch.decision, **numbers})
    else:
        output.line(text)


def note_pauses(pauses: "Iterable[AuditEntry]") -> None:
    """Say on stderr which lanes are paused, and how to resume them."""
    from worker.report.sentences import pause_text

    for pause in pauses:
        lane = pause.subject.removeprefix("pause:")
        which = "" if lane == "all" else f" --lane {lane}"
        output.note(f'{pause_text(pause)}: b2copy-sync resume{which} --why "..."')


def _table(reports: list["BatchReport"]) -> None:
    from worker.operation import State
    from worker.report.format_values import clock

    if not reports:
        output.line("no imports")
        return
    output.table(
        ("import", "kind", "requested (UTC)", "by", "ended", "of", "failed", "how it stands"),
        [
            (
                one.batch.id, one.batch.kind, clock(one.batch.requested_at), one.batch.requested_by,
                f"{one.done:,}", f"{one.total:,}", f"{one.counts.states.get(State.FAILED, 0):,}", one.sentence,
            )
            for one in reports
        ],
    )  # fmt: skip


def _facts(report: "BatchReport") -> None:
    from worker.operation import State
    from worker.report.format_values import clock

    batch = report.batch
    output.line(f"import {batch.id}: {report.sentence}")
    states = [f"{count:,} {state}" for state in State if (count := report.counts.states.get(state, 0))]
    output.facts(
        [
            ("file", batch.source),
            ("kind", batch.kind),
            ("lane", batch.lane),
            ("requested", f"{clock(batch.requested_at)} UTC by {batch.requested_by}"),
            ("recorded", f"{report.counts.recorded:,} of {report.total:,}"),
            ("operations", ", ".join(states)),
            ("ended in the last minute", f"{report.counts.ended_last_minute:,}"),
        ]
    )
