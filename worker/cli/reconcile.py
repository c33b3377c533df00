"""`reconcile`: compare B2COPY's accounts with the identity map."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.options import By, Json

if TYPE_CHECKING:
    from tasks.apply_reconciliation import Applied, Planned
    from worker.ledger import Ledger
    from worker.ledger.reconciliation import Run
    from worker.ledger.restore import Distrusted

_SHOW_EVERY = 5_000  # accounts; so often a line says how far it is, where there is no terminal

_NEXT = {
    "start_or_get": "sent again: B2COPY answers how each one stands, and starts none twice",
    "read_back": "looked up at B2COPY first, and sent only if it is not there",
    "repeat": "sent again: a repeat does no harm",
    "stop": "not sent: ends as failed (unresolved), and a person looks at B2COPY",
}
_NEXT_IF_FAILED = {
    word: f"stays failed; if a person replays it, {what}"
    for word, what in (_NEXT | {"stop": "--it-was-not-done is needed: look at B2COPY first"}).items()
}


def reconcile(
    by: By,
    last: Annotated[bool, typer.Option("--last", help="Show what the last run has found, ask B2COPY nothing.")] = False,
    apply: Annotated[
        str | None,
        typer.Option("--apply", metavar="RUN", help="Do what the plan of this run says; needs --yes and --why."),
    ] = None,
    missing_there: Annotated[
        int | None,
        typer.Option(
            "--missing-there", help="Confirm this number of accounts missing at B2COPY. Needed if it is unusually high."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="You have seen the plan.")] = False,
    after_restore: Annotated[
        bool,
        typer.Option(
            "--after-restore",
            help="The ledger came from a backup: count the outcome of every open or failed operation as unknown.",
        ),
    ] = False,
    why: Annotated[
        str, typer.Option("--why", help="Your reason, which is stored: needed with --apply and --after-restore.")
    ] = "",
    limit: Annotated[int, typer.Option(min=1, max=1_000_000, help="List no more differences than this.")] = 1_000,
    as_json: Json = False,
) -> None:
    """Compare the accounts at B2COPY with the identity map: missing there, missing here, or different in their ids.

    An account that was closed at B2COPY counts as missing there until `identity close` says so.

    It reads B2COPY's list a page at a time, with a tenth of the rate limit (B2COPY_RATE_LIMIT). A run that was
    interrupted continues where it was. Exit code 0: both sides agree; 6: they differ.

    --apply: what is missing here is learned; what is missing there is opened again in the lane bulk, if the ledger has
    the operation that opened it. All else is left to a person. The last line of the plan has the name of its run.

    --after-restore: run it once, with all workers stopped, before they start on a ledger that came from a backup.
    What the ledger has not finished may have been done since the backup. So the outcome of all that could be sent then
    counts as unknown. Each kind decides what follows: it is sent again, looked up first, or left to a person. The
    command prints a table of that. B2COPY is asked nothing: compare the accounts afterwards, and look at the plan
    before you apply it.
    """
    from worker.settings import CrmSettings, Settings, load

    if after_restore and (apply is not None or last):
        raise Stop(Exit.USAGE, "--after-restore stands alone: start the workers after it, then compare the accounts")
    if apply is not None and not (yes and why.strip()):
        raise Stop(Exit.USAGE, "--apply changes things: look at the plan with --last, then add --yes and --why")
    if after_restore:
        if not yes or not why.strip():
            raise Stop(Exit.USAGE, "--after-restore needs --yes and --why, and all workers stopped")
        _distrust(by, why, as_json)
        return
    last = last or apply is not None
    load(CrmSettings if last else Settings)
    run = _last_run() if last else _run(by)
    from tasks.apply_reconciliation import plan
    from worker.instances import ledger
    from worker.ledger.reconciliation import count_differences, differences

    counted = count_differences(ledger(), run)
    if apply is not None:
        _check_seen(run, apply, counted, limit, missing_there)
    planned = plan(run, differences(ledger(), run, limit=limit))
    applied = _apply(run, by, why) if apply is not None else None
    if as_json:
        output.document(_document(run, counted, planned, applied))
    else:
        _show(run, counted, planned, applied)
    if applied.left if applied else sum(counted.values()):
        raise typer.Exit(Exit.DIFFERENT)


def _last_run() -> "Run":
    from worker.instances import ledger
    from worker.ledger.reconciliation import current_run

    run = current_run(ledger())
    if run is None or run.phase != "finished":
        problem = "no reconciliation has been run" if run is None else "the reconciliation is not finished"
        raise Stop(Exit.WAITING, f"{problem}: leave out --last")
    return run


def _check_seen(run: "Run", name: str, counted: dict[str, int], limit: int, missing_there: int | None) -> None:
    """Stop unless a person has seen the whole plan of this run, and an unusual one with open eyes."""
    from tasks.apply_reconciliation import unusually_many

    if name != run.name:
        raise Stop(
            Exit.FAILED,
            f"the last run is {run.name}, and not {name}: its plan may be another one, so nothing was applied",
            f"look at it with b2copy-sync reconcile --last, then give --apply {run.name}",
        )
    if (total := sum(counted.values())) > limit:
        raise Stop(
            Exit.USAGE,
            f"the plan has {total} lines, and --limit {limit} shows only the first ones: nothing was applied",
            f"look at all of them with b2copy-sync reconcile --last --limit {total}, then apply with this --limit too",
        )
    missing = counted.get("missing_there", 0)
    if missing != missing_there and unusually_many(missing):
        raise Stop(
            Exit.FAILED,
            f"{missing} accounts are missing at B2COPY, more than one in a hundred: nothing was applied",
            "its login may have lost the right to see them. Look there; if they are really gone, add"
            f" --missing-there {missing}",
        )


def _apply(run: "Run", by: str, why: str) -> "Applied":
    from tasks.apply_reconciliation import RunGone, apply

    try:
        return apply(run, by, why)
    except RunGone:
        raise Stop(
            Exit.FAILED,
            f"another reconciliation has begun, so {run.name} is gone: only a part of its plan was applied, or nothing",
            "b2copy-sync reconcile shows what is left",
        ) from None


def _run(by: str) -> "Run":
    """Start a run, or continue the one under way, to its end."""
    from tasks.reconcile import find_accounts
    from worker.errors import B2CopyError
    from worker.instances import ledger
    from worker.ledger.b2copy_host import check_b2copy_host
    from worker.ledger.reconciliation import start_run
    from worker.reconcile.pace import Pace
    from worker.reconcile.run import Paused, run_to_end
    from worker.reconcile.steps import ListUnusable
    from worker.settings import worker_settings

    ledger().write(lambda connection: check_b2copy_host(connection, worker_settings().host))
    run = start_run(ledger(), by)
    continues = "b2copy-sync reconcile continues where it was"
    try:
        with _progress(ledger(), run) as show:
            return run_to_end(ledger(), run, find_accounts, Pace(worker_settings()), show)
    except Paused:
        raise Stop(
            Exit.WAITING, f"all lanes are paused, so B2COPY is asked nothing: after the end, {continues}"
        ) from None
    except ListUnusable as error:
        raise Stop(Exit.FAILED, str(error)) from None
    except KeyboardInterrupt:
        raise Stop(Exit.WAITING, f"interrupted: {continues}") from None
    except B2CopyError as error:
        raise Stop(Exit.WAITING, f"B2COPY gives no usable answer: {error}", continues) from None


@contextmanager
def _progress(ledger: "Ledger", run: "Run") -> "Iterator[Callable[[Run], None]]":
    """Show on stderr how far it is: a bar on a terminal, else a line now and then."""
    from worker.ledger.reconciliation import expected_accounts

    expected = expected_accounts(ledger)
    if run.position:
        output.note(f"continuing after {run.position} accounts")
    if not output.err().is_terminal:
        shown = run.position

        def show(now: "Run") -> None:
            nonlocal shown
            if now.position >= shown + _SHOW_EVERY:
                shown = now.position
                output.note(f"{now.position} accounts read, about {expected} expected")

        yield show
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.err(), transient=True) as bar:
        task = bar.add_task("reading accounts", total=max(expected, run.position), completed=run.position)

        def update(now: "Run") -> None:
            if now.phase == "reading":
                bar.update(task, completed=now.position, total=max(expected, now.position))
            else:
                bar.update(task, description=f"comparing, login {now.compared_to[2] or '...'}", total=None)

        yield update


def _show(run: "Run", counted: dict[str, int], planned: "list[Planned]", applied: "Applied | None") -> None:
    from worker.report.format_values import clock, count

    if planned:
        output.table(
            ("login", "platform", "difference", "here", "at B2COPY", "applied" if applied else "--apply"),
            [
                (
                    one.difference.login, one.difference.platform, one.difference.difference.replace("_", " "),
                    _side(one.difference.fields, 0), _side(one.difference.fields, 1), one.action,
                )
                for one in planned
            ],
        )  # fmt: skip
    total = sum(counted.values())
    if total > len(planned):
        output.note(f"these are the first {len(planned)} of {total}: --limit shows more")
    sorts = ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in sorted(counted.items()))
    found = f"{count(total, 'difference')}: {sorts}" if total else "both sides agree"
    when = f"run {run.name}, begun {clock(run.started_at)} UTC by {run.started_by}"
    output.line(f"{found}; {count(run.position, 'account')} at B2COPY, {count(run.requests, 'request')}, {when}")
    if applied:
        done = f"{count(applied.learned, 'login')} learned, {count(len(applied.enqueued))} accepted in lane bulk"
        output.line(f"{done}, {applied.left} left to a person")
    elif total:
        output.note(f'b2copy-sync reconcile --apply {run.name} --yes --why "..." does what the last column says')


def _side(fields: dict[str, list[str | None]], side: int) -> str:
    return ", ".join(f"{name} {values[side]}" for name, values in fields.items() if values[side] is not None) or "-"


def _document(
    run: "Run", counted: dict[str, int], planned: "list[Planned]", applied: "Applied | None"
) -> dict[str, Any]:
    from dataclasses import asdict
    from typing import get_args

    from worker.ledger.reconciliation import What
    from worker.report.format_values import iso

    return {
        "run": run.name,
        "started_at": iso(run.started_at),
        "started_by": run.started_by,
        "finished_at": iso(run.finished_at),
        "accounts": run.position,
        "requests": run.requests,
        "differences": {what: counted.get(what, 0) for what in get_args(What)},
        "plan": [
            {
                "platform": one.difference.platform,
                "login": one.difference.login,
                "difference": one.difference.difference,
                "here": {name: values[0] for name, values in one.difference.fields.items()},
                "there": {name: values[1] for name, values in one.difference.fields.items()},
                "action": one.action,
            }
            for one in planned
        ],
        "more": sum(counted.values()) > len(planned),
        "applied": asdict(applied) if applied else None,
    }


def _distrust(by: str, why: str, as_json: bool) -> None:
    from tasks.registry import KINDS
    from tasks.restore import distrust
    from worker.cli.open_ledger import existing_ledger
    from worker.report.format_values import count
    from worker.settings import Settings, load

    with existing_ledger(load(Settings)) as ledger:  # what follows depends on the settings of workers
        counted = distrust(ledger, by, why)
    if as_json:
        output.document([one._asdict() | {"next": _next(one)} for one in counted])
        return
    if not counted:
        output.line("no operation in this ledger could be sent, so nothing was marked")
        return
    output.table(
        ("kind", "state", "operations", "never sent", "what happens next"),
        [
            (
                one.kind, "failed" if one.failed else "open", str(one.operations),
                "-" if one.failed else str(one.never_sent), _next(one),
            )
            for one in counted
        ],
    )  # fmt: skip
    output.line(
        f"{count(sum(one.operations for one in counted))} may have been done since the backup, and are marked so"
    )
    requested = [one for one in counted if one.kind in KINDS]  # nobody cancels a notice
    if unsent := sum(one.never_sent for one in requested):
        money = sum(one.never_sent for one in requested if KINDS[one.kind].moves_money)
        output.line(
            f"{count(unsent)} had not been sent before the backup, {money} of them withdrawals: cancel again what was"
            " cancelled since the backup (b2copy-sync failed cancel), before you start workers"
        )
    output.note("start the workers, then run b2copy-sync reconcile: it finds the accounts that were opened since")


def _next(one: "Distrusted") -> str:
    return (_NEXT_IF_FAILED if one.failed else _NEXT)[one.on_unknown]
