"""Dead letters: failed operations, on which people decide."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import output
from worker.cli.exits import EXITS, Exit, Stop
from worker.cli.open_ledger import existing_ledger
from worker.cli.operation_view import document, remedy, story_of, summary, tell
from worker.cli.options import By, Json, Key, Lane, Reason, Why, moment, per_second
from worker.cli.status import look_up

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.operation import FailureReason, Operation, State

app = typer.Typer(help="Failed operations: list them, see why, replay or cancel.", no_args_is_help=True, epilog=EXITS)

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
    """List failed operations, newest first, with B2COPY's last words."""
    from worker.ledger import search

    with existing_ledger() as ledger:
        found = search(
            ledger, state=_failed(), failure_reason=_reason(reason), kind=kind, lane=lane, since=since, limit=limit + 1
        )
        stories = [story_of(ledger, operation) for operation in found[:limit]]
    more = len(found) > limit
    if as_json:
        output.document(
            {"failed": [{**summary(one.operation), "words": one.words or None} for one in stories], "more": more}
        )
        return
    if not stories:
        output.line("no failed operations" + (" of this sort" if reason or kind or lane or since else ""))
        return
    output.table(
        ("Key", "Lane", "Reason", "Failed (UTC)", "Last words"),
        [
            (
                one.operation.key,
                one.operation.lane,
                str(one.operation.failure_reason),
                output.clock(one.operation.state_since),
                one.words,
            )
            for one in stories
        ],
    )
    if more:
        output.note(f"these are the newest {limit}: --limit shows more")


@app.command(epilog=EXITS)
def show(key: Key, as_json: Json = False) -> None:
    """Tell a failed operation's story, and what can be done about it."""
    with existing_ledger() as ledger:
        story = story_of(ledger, look_up(ledger, key))
    if as_json:
        output.document({**document(story), "remedy": remedy(story.operation) or None})
        return
    tell(story)
    if story.operation.state != "failed":
        output.note(f"it has not failed: it is {story.operation.state}")


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
    from worker.ledger import replay as queue_again
    from worker.messages.wake_up import wake
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
        left = {one.key: why_not for one in chosen if (why_not := _not_replayable(one, not_done))}
        wanted = [one for one in chosen if one.key not in left]
        money = sum(_moves_money(one) for one in wanted)
        replayed: list[str] = []
        if not dry_run:
            if money and not yes:
                chosen_are = f"{output.count(len(wanted))} chosen, {money} of which move money"
                raise Stop(Exit.USAGE, f"{chosen_are}: look with --dry-run, then --yes")
            try:
                for batch in _paced([one.key for one in wanted], rate):
                    replayed += queue_again(ledger, batch, by, why, not_done)
                    for each in {one.lane for one in wanted}:
                        wake(each)
                    if len(replayed) < len(wanted) and output.err().is_terminal:
                        output.note(f"{len(replayed)} of {len(wanted)} replayed")
            except KeyboardInterrupt:
                told = f"interrupted: {len(replayed)} of {len(wanted)} replayed, the others are as they were"
                raise Stop(Exit.FAILED, told) from None
    if as_json:
        would = [one.key for one in wanted]
        output.document({"dry_run": dry_run, "chosen": would, "replayed": replayed, "left_alone": left})
    elif dry_run:
        output.table(
            ("Would replay", "Lane", "Failed for"), [(one.key, one.lane, str(one.failure_reason)) for one in wanted]
        )
        output.line(f"{output.count(len(wanted))} would be replayed, {money} of which move money; nothing was changed")
    else:
        output.line(f"{output.count(len(replayed))} replayed")
    if not as_json:
        for key, why_not in left.items():
            output.note(f"left alone: {key}: {why_not}")
    if keys and left:
        raise typer.Exit(Exit.FAILED)


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

    Once an attempt was made it cannot be undone from here: B2COPY goes on whatever we say. --stop-asking then ends it
    for us, as failed (unresolved), and a person finds out at B2COPY what became of it.
    """
    from worker import ledger as decisions

    with existing_ledger() as ledger:
        operation = look_up(ledger, key)
        decide = decisions.stop_asking if stop_asking else decisions.cancel
        operation = decide(ledger, operation.key, by, why)
    if as_json:
        output.document(summary(operation))
    elif stop_asking:
        output.line(f"{operation.key} failed (unresolved): we ask no more, B2COPY may still do it")
    else:
        output.line(f"{operation.key} cancelled: nothing of it was sent")


@app.command(epilog=EXITS)
def resolve(
    key: Key,
    why: Why,
    by: By,
    succeeded: Annotated[
        bool, typer.Option("--succeeded/--failed", help="What you found at B2COPY: it did it, or it did not.")
    ],
    result: Annotated[
        list[str] | None, typer.Option("--result", metavar="NAME=VALUE", help="What it returned; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Record what B2COPY did with a failed operation, after you have looked there.

    --succeeded ends it as succeeded, with its result, and what waits for it continues. --failed leaves it failed, as
    rejected: it may then be replayed.
    """
    from worker.ledger import resolve as record_finding

    values = dict(map(_pair, result or []))
    if values and not succeeded:
        raise typer.BadParameter("only what succeeded has a result", param_hint="--result")
    with existing_ledger() as ledger:
        operation = look_up(ledger, key)
        operation = record_finding(ledger, operation.key, by, why, succeeded=succeeded, result=values or None)
    if as_json:
        output.document(summary(operation))
    else:
        found = "succeeded" if succeeded else "is known not to be done: it may be replayed"
        output.line(f"{operation.key} {found}")


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--result")
    return name, value


def _moves_money(operation: "Operation") -> bool:
    """Fee runs do in whatever lane: an import may have put them into bulk."""
    return operation.lane == "money" or operation.kind.startswith("fees.")


def _not_replayable(operation: "Operation", not_done: bool = False) -> str:
    """Tell why a replay would do nothing, or nothing good; empty if it may be replayed."""
    if operation.state != "failed":
        return f"it is {operation.state}"
    if operation.kind == "message":
        return "it only keeps a message that could not be taken"
    if operation.outcome_unknown and operation.on_unknown == "stop" and not not_done:
        return "whether B2COPY did it is not known, and it must not be done twice: look there, then --it-was-not-done"
    return ""


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
