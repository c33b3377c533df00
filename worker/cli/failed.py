"""`failed`: the operations that failed, on which people decide."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import operation_view, output
from worker.cli.exits import EXITS, Exit, Stop
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import By, Json, Key, Lane, Reason, Why, json_or_text, moment, named_texts, per_second
from worker.cli.status import look_up

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.operation import FailureReason, Operation, State

app = typer.Typer(
    help="Failed operations: list them, see why, replay, resolve or cancel.", no_args_is_help=True, epilog=EXITS
)

WHICH = "Which ones"
_PAGE = 500

ByReason = Annotated[
    Reason | None, typer.Option("--reason", help="Only those that failed for this reason.", rich_help_panel=WHICH)
]
ByKind = Annotated[str | None, typer.Option("--kind", help="Only this kind, e.g. fees.process.", rich_help_panel=WHICH)]
ByLane = Annotated[Lane | None, typer.Option("--lane", help="Only this lane.", rich_help_panel=WHICH)]
Since = Annotated[
    int | None,
    typer.Option(
        "--since",
        parser=moment,
        metavar="WHEN",
        help="Only those failed since 2h, 3d, 2026-05-01, 2026-05-01T12:00.",
        rich_help_panel=WHICH,
    ),
]


@app.command("list", epilog=EXITS)
def list_(
    reason: ByReason = None,
    kind: ByKind = None,
    lane: ByLane = None,
    since: Since = None,
    limit: Annotated[int, typer.Option(min=1, help="Show no more than this many, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List failed operations, newest first, with the last message of the other side."""
    from tasks.registry import KINDS
    from worker.ledger import search
    from worker.report.operation import report_on, summary
    from worker.report.text import clock

    with existing_ledger() as ledger:
        found = search(
            ledger, state=_failed(), failure_reason=_reason(reason), kind=kind, lane=lane, since=since, limit=limit + 1
        )
        reports = [report_on(ledger, operation, KINDS) for operation in found[:limit]]
    more = len(found) > limit
    if as_json:
        output.document({"failed": [summary(report) for report in reports], "more": more})
        return
    if not reports:
        output.line("no failed operations" + (" that match" if reason or kind or lane or since else ""))
        return
    output.table(
        ("Key", "Lane", "Reason", "Failed (UTC)", "Last message"),
        [
            (
                one.operation.key,
                one.operation.lane,
                str(one.operation.failure_reason),
                clock(one.operation.state_since),
                one.server_message,
            )
            for one in reports
        ],
    )
    if more:
        output.note(f"these are the newest {limit}: --limit shows more")


@app.command(epilog=EXITS)
def show(key: Key, as_json: Json = False) -> None:
    """Show a failed operation with all evidence, and what can be done about it."""
    from tasks.registry import KINDS
    from worker.report.operation import document, report_on

    with existing_ledger() as ledger:
        report = report_on(ledger, look_up(ledger, key), KINDS)
    if as_json:
        output.document(document(report))
        return
    operation_view.show(report)
    if report.operation.state != "failed":
        output.note(f"it has not failed: it is {report.operation.state}")


@app.command(epilog=EXITS)
def replay(
    why: Why,
    by: By,
    keys: Annotated[list[str] | None, typer.Argument(metavar="KEY", help="Which; or choose by the filters.")] = None,
    reason: ByReason = None,
    kind: ByKind = None,
    lane: ByLane = None,
    since: Since = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All failed operations there are.", rich_help_panel=WHICH)
    ] = False,
    rate: Annotated[
        float | None,
        typer.Option(parser=per_second, metavar="N/second", help="No faster than this.", show_default="all at once"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be replayed, change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Needed if any of them moves money.")] = False,
    not_done: Annotated[
        bool,
        typer.Option("--it-was-not-done", help="You have looked at B2COPY: a call of unknown outcome was not made."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Queue failed operations again, with fresh attempts and a fresh deadline. Who and why are kept as evidence.

    Left alone is what cannot be done again: messages that could not be taken, and calls whose outcome is unknown and
    which must not be repeated, unless you name their KEYs and say --it-was-not-done.
    """
    from tasks.registry import KINDS
    from worker.ledger import replay as queue_again
    from worker.messages.wake_up import wake
    from worker.report.replay import moves_money, why_not_replayable
    from worker.report.text import count
    from worker.settings import CrmSettings, load

    filtered = any((reason, kind, lane, since is not None))
    if bool(keys) + (filtered or everything) != 1:
        raise typer.BadParameter("name KEYs, or choose by filters, or say --all", param_hint="KEY")
    if not_done and not keys:
        raise typer.BadParameter("name the KEYs you have looked at", param_hint="--it-was-not-done")
    with existing_ledger(load(CrmSettings)) as ledger:
        chosen = (
            [look_up(ledger, key) for key in dict.fromkeys(keys)]
            if keys
            else list(_all_failed(ledger, reason=reason, kind=kind, lane=lane, since=since))
        )
        left = {one.key: why_not for one in chosen if (why_not := why_not_replayable(one, not_done))}
        wanted = [one for one in chosen if one.key not in left]
        money = sum(moves_money(one, KINDS) for one in wanted)
        replayed: list[str] = []
        if not dry_run:
            if money and not yes:
                chosen_are = f"{count(len(wanted))} chosen, {money} of which move money"
                raise Stop(Exit.USAGE, f"{chosen_are}: look with --dry-run, then --yes")
            try:
                for batch in _paced([one.key for one in wanted], rate):
                    replayed += queue_again(ledger, batch, by, why, not_done)
                    for each in {one.lane for one in wanted}:
                        wake(each)
                    if len(replayed) < len(wanted) and output.err().is_terminal:
                        output.note(f"{len(replayed)} of {len(wanted)} replayed")
            except KeyboardInterrupt:
                message = f"interrupted: {len(replayed)} of {len(wanted)} replayed, the others are as they were"
                raise Stop(Exit.FAILED, message) from None
    if as_json:
        would = [one.key for one in wanted]
        output.document({"dry_run": dry_run, "chosen": would, "replayed": replayed, "left_alone": left})
    elif dry_run:
        output.table(
            ("Would replay", "Lane", "Failed for"), [(one.key, one.lane, str(one.failure_reason)) for one in wanted]
        )
        output.line(f"{count(len(wanted))} would be replayed, {money} of which move money; nothing was changed")
    else:
        output.line(f"{count(len(replayed))} replayed")
    if not as_json:
        for key, why_not in left.items():
            output.note(f"left alone: {key}: {why_not}")
    if keys and left:
        raise typer.Exit(Exit.FAILED)


@app.command(epilog=EXITS)
def resolve(
    key: Key,
    why: Why,
    by: By,
    succeeded: Annotated[
        bool | None, typer.Option("--succeeded/--failed", help="It was done; or it was not.", show_default=False)
    ] = None,
    result: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What it brought, for --succeeded; JSON or a text; may be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Record what you found out at B2COPY about a failed operation: it was done, or it was not.

    --succeeded ends it as succeeded, and what waits for it continues. --failed leaves it failed (rejected), and it may
    then be replayed. Nothing is sent to B2COPY.
    """
    from tasks.registry import KINDS
    from worker import ledger as decisions
    from worker.report.operation import report_on, summary

    if succeeded is None:
        raise typer.BadParameter("say --succeeded or --failed", param_hint="--succeeded")
    if result and not succeeded:
        raise typer.BadParameter("only what succeeded has a result", param_hint="--result")
    values = {name: json_or_text(text) for name, text in named_texts(result or [], "--result").items()}
    with existing_ledger() as ledger:
        found = look_up(ledger, key)
        operation = decisions.resolve(ledger, found.key, by, why, succeeded=succeeded, result=values or None)
        report = report_on(ledger, operation, KINDS)
    if as_json:
        output.document(summary(report))
    else:
        output.line(f"{operation.key} {report.standing}", style=operation_view.STYLES.get(operation.state, ""))


@app.command(epilog=EXITS)
def cancel(
    key: Key,
    why: Why,
    by: By,
    stop_asking: Annotated[
        bool, typer.Option("--stop-asking", help="It was sent already: end it as failed, unresolved.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Cancel an operation of which nothing was sent yet.

    Once a request was sent, the operation cannot be cancelled: B2COPY continues it. --stop-asking then ends it on our
    side as failed (unresolved), and a person finds out at B2COPY whether it was done.
    """
    from tasks.registry import KINDS
    from worker import ledger as decisions
    from worker.report.operation import report_on, summary

    with existing_ledger() as ledger:
        operation = look_up(ledger, key)
        decide = decisions.stop_asking if stop_asking else decisions.cancel
        operation = decide(ledger, operation.key, by, why)
        report = report_on(ledger, operation, KINDS)
    if as_json:
        output.document(summary(report))
    elif stop_asking:
        output.line(f"{operation.key} failed (unresolved): we ask no more, B2COPY may still do it")
    else:
        output.line(f"{operation.key} cancelled: nothing of it was sent")


def _all_failed(
    ledger: "Ledger", *, reason: str | None, kind: str | None, lane: str | None, since: int | None
) -> "Iterator[Operation]":
    """Every failed operation of this sort, newest first."""
    from worker.ledger import search

    before = None
    while page := search(
        ledger,
        state=_failed(),
        failure_reason=_reason(reason),
        kind=kind,
        lane=lane,
        since=since,
        before=before,
        limit=_PAGE,
    ):
        yield from page
        before = page[-1].id


def _paced(keys: list[str], rate: float | None) -> Iterator[list[str]]:
    """Cut into batches, one a second, or one after another's time if there is less than one a second."""
    size = _PAGE if rate is None else max(1, int(rate))
    began = time.monotonic()
    for start in range(0, len(keys), size):
        if rate is not None and (early := began + start / rate - time.monotonic()) > 0:
            time.sleep(early)
        yield keys[start : start + size]


def _failed() -> "State":
    from worker.operation import State

    return State.FAILED


def _reason(reason: str | None) -> "FailureReason | None":
    from worker.operation import FailureReason

    return FailureReason(reason) if reason else None
