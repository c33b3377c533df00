"""`approvals`: what one person proposed and another one must approve (B2COPY_FOUR_EYES)."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exit_codes import EXITS, Exit
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import By, Json, Why

if TYPE_CHECKING:
    from worker.ledger.approvals import Approval

app = typer.Typer(
    help="Four eyes: list what others proposed, approve or reject it.", no_args_is_help=True, epilog=EXITS
)


def _number(value: Any) -> int:
    text = str(value).upper().removeprefix("A")
    if not text.isdecimal() or len(text) > 18:
        raise typer.BadParameter(
            f'{value!r} is no proposal\'s name: write it as in "b2copy-sync approvals list", such as A17'
        )
    return int(text)


Number = Annotated[
    int, typer.Argument(parser=_number, metavar="PROPOSAL", help="Which one, e.g. A17: `approvals list` names them.")
]


@app.command("list", epilog=EXITS)
def list_(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Show no more than this many, oldest first.")] = 200,
    as_json: Json = False,
) -> None:
    """List the open proposals, oldest first."""
    from worker.ledger.approvals import open_approvals
    from worker.report.format_values import clock, named_values

    with existing_ledger() as ledger:
        found = open_approvals(ledger, limit + 1)
    more = len(found) > limit
    found = found[:limit]
    if as_json:
        output.document({"approvals": [document(one) for one in found], "more": more})
    elif not found:
        output.line("no open proposals")
    else:
        output.table(
            ("Proposal", "What", "Which", "With", "By", "Proposed (UTC)", "Why"),
            [
                (
                    one.name,
                    one.action,
                    one.subject,
                    named_values(one.arguments),
                    one.proposed_by,
                    clock(one.proposed_at),
                    one.note,
                )
                for one in found
            ],
        )
    if more and not as_json:
        output.note(f"these are the oldest {limit}: --limit shows more")


@app.command(epilog=EXITS)
def approve(number: Number, why: Why, by: By, as_json: Json = False) -> None:
    """Approve what another person proposed: it is done at once."""
    from worker.ledger import find
    from worker.ledger.approvals import approve as approve_proposal
    from worker.messages.wake_up import wake
    from worker.queues import LANES
    from worker.settings import CrmSettings, load

    with existing_ledger(load(CrmSettings)) as ledger:
        decided = approve_proposal(ledger, number, by, why)
        operation = find(ledger, decided.subject)
    done = decided.decision == "approved"
    for lane in LANES if operation is None else [operation.lane]:
        if done:
            wake(lane)
    if as_json:
        output.document(document(decided))
    elif done:
        output.line(f"{decided.name} approved: {_proposed(decided)}")
    else:
        output.note(f"{decided.name} is void ({decided.decision}): {decided.decided_note or 'propose it again'}")
    if not done:
        raise typer.Exit(Exit.FAILED)


@app.command(epilog=EXITS)
def reject(number: Number, why: Why, by: By, as_json: Json = False) -> None:
    """Close a proposal without doing it. The person who made it withdraws it."""
    from worker.ledger.approvals import reject as reject_proposal

    with existing_ledger() as ledger:
        decided = reject_proposal(ledger, number, by, why)
    if as_json:
        output.document(document(decided))
    else:
        output.line(f"{decided.name} {decided.decision}")


def show_proposal(approval: "Approval", as_json: bool) -> None:
    """Print that a decision was proposed and not made."""
    if as_json:
        output.document({"proposed": document(approval)})
    else:
        name = approval.name
        output.line(f"proposed as {name}: {_proposed(approval)}")
        output.line(f"another person must run `b2copy-sync approvals approve {name}`")


def _proposed(approval: "Approval") -> str:
    """Return what was proposed: `resolve fees.process:W1 with succeeded=true`."""
    from worker.report.format_values import named_values

    values = named_values(approval.arguments)
    return f"{approval.action} {approval.subject}{f' with {values}' if values else ''}"


def document(approval: "Approval") -> dict[str, Any]:
    """Return a proposal for programs."""
    from worker.report.format_values import with_iso_times

    fields = with_iso_times(approval._asdict())
    del fields["seen"]
    return {"name": approval.name, **fields}
