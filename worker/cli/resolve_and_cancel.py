"""`failed resolve` and `failed cancel`: what people decide about one operation."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import operation_view, output
from worker.cli.approvals import show_proposal
from worker.cli.find_by_name import look_up
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import By, Json, Key, Why, check_yes, json_or_text, named_texts

if TYPE_CHECKING:
    from worker.operation_kind import Kind


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
    yes: Annotated[bool, typer.Option("--yes", help="Needed for --succeeded, if it moves money.")] = False,
    as_json: Json = False,
) -> None:
    """Record what you found out at B2COPY about a failed operation: it was done, or it was not.

    --succeeded ends it as succeeded: the CRM learns this and may pay the withdrawal, and operations that wait for this
    one start. What waits for a registration needs the client's id: --result client_id=77. --failed leaves it failed
    (rejected), and it may then be replayed; a message that could not be used ends as cancelled, and is listed no more.
    Nothing is sent to B2COPY.
    """
    from tasks.registry import ALL_KINDS
    from worker.ledger.approvals import Approval, decide_or_propose
    from worker.report.operation_report import report_on, summary
    from worker.report.sentences import TO_FILL_IN

    if succeeded is None:
        raise typer.BadParameter("say --succeeded or --failed", param_hint="--succeeded")
    if result and not succeeded:
        raise typer.BadParameter("only what succeeded has a result", param_hint="--result")
    texts = named_texts(result or [], "--result")
    if to_fill_in := [name for name, text in texts.items() if text == TO_FILL_IN]:
        problem = f"write what B2COPY shows as {to_fill_in[0]} in place of {TO_FILL_IN}, or leave this --result out"
        raise typer.BadParameter(problem, param_hint="--result")
    with existing_ledger() as ledger:
        found = look_up(ledger, key)
        values = _result(ALL_KINDS.get(found.kind), texts)
        if succeeded:
            check_yes(yes, found, "it ends as succeeded, and the CRM learns this and may pay the withdrawal")
        decided = decide_or_propose(ledger, "resolve", found, by, why, succeeded=succeeded, result=values or None)
        if isinstance(decided, Approval):
            show_proposal(decided, as_json)
            return
        operation, report = decided, report_on(ledger, decided, ALL_KINDS)
    if as_json:
        output.document(summary(report))
    else:
        output.line(f"{operation.key} {report.standing}", style=operation_view.STYLES.get(operation.state, ""))


def _result(kind: "Kind[Any] | None", texts: dict[str, str]) -> dict[str, Any]:
    """Return the result that these texts stand for. Raises `BadPayload` if the kind has other ids."""
    if kind is not None and kind.result is not None:
        return kind.checked_result(texts)
    return {name: json_or_text(name, text) for name, text in texts.items()}


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

    It is final: a cancelled operation is never sent, and the same id cannot be requested again. To stop the operations
    of an import for a while: `import pause`.

    Once a request was sent, the operation cannot be cancelled: B2COPY continues it. --stop-asking then ends it on our
    side as failed (unresolved), and a person finds out at B2COPY whether it was done.
    """
    from tasks.registry import ALL_KINDS
    from worker.ledger.approvals import Approval, decide_or_propose
    from worker.report.operation_report import report_on, summary

    with existing_ledger() as ledger:
        found = look_up(ledger, key)
        decided = decide_or_propose(ledger, "stop_asking" if stop_asking else "cancel", found, by, why)
        if isinstance(decided, Approval):
            show_proposal(decided, as_json)
            return
        operation, report = decided, report_on(ledger, decided, ALL_KINDS)
    if as_json:
        output.document(summary(report))
    elif stop_asking:
        output.line(f"{operation.key} failed (unresolved): we ask no more, B2COPY may still do it")
    elif operation.outcome_unknown:
        output.line(
            f"{operation.key} cancelled: this ledger sent nothing of it. The ledger came from a backup: whether it was"
            " done since is not known, so look at B2COPY"
        )
    else:
        output.line(f"{operation.key} cancelled: nothing of it was sent")
