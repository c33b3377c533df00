"""Pause and resume."""

from typing import Annotated

import typer

from worker.cli import output
from worker.cli.approvals import show_proposal
from worker.cli.exit_codes import Exit
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import By, Json, LaneOrAll, Why

Which = Annotated[LaneOrAll, typer.Option(help="Which lane, or all of them.")]
Ended = Annotated[
    LaneOrAll, typer.Option(help="Whose pause. `all` ends a pause of all lanes; that of a single lane stays.")
]


def pause(why: Why, by: By, lane: Which = "all", as_json: Json = False) -> None:
    """Send nothing more from a lane, in the whole fleet, until it is resumed.

    What is being sent is finished; everything else waits in the ledger, and new operations are still accepted. A pause
    of all lanes refuses what CRM hosts ask to read, too, and stops the reconciliation. Logins, and what the commands
    doctor, verify, accounts list and seamless-url ask B2COPY, go on.
    """
    from worker import ledger as operations
    from worker.report.operation_report import pause_document
    from worker.report.sentences import paused_by

    with existing_ledger() as ledger:
        if not operations.pause(ledger, lane, by, why):
            output.note("it was paused already: your reason is not stored")
        flag = operations.active_flags(ledger)[f"pause:{lane}"]
    if as_json:
        output.document({**pause_document(flag), "paused": True})
    else:
        output.line(f"{_named(lane)} paused {paused_by(flag)}")


def resume(why: Why, by: By, lane: Ended = "all", as_json: Json = False) -> None:
    """End a pause: what is due is sent again. Exit code 1 if there is no such pause."""
    from worker import ledger as operations
    from worker.ledger.approvals import Approval, resume_or_propose
    from worker.messages.wake_up import wake
    from worker.queues import LANES
    from worker.settings import CrmSettings, load

    settings = load(CrmSettings)
    with existing_ledger(settings) as ledger:
        was_paused = resume_or_propose(ledger, lane, by, why)
        if isinstance(was_paused, Approval):
            show_proposal(was_paused, as_json)
            return
        flags = operations.active_flags(ledger)
    still_paused = [name.removeprefix("pause:") for name in flags if name.startswith("pause:")]
    for each in LANES if lane == "all" else [lane]:
        wake(each)
    if as_json:
        output.document({"lane": lane, "was_paused": was_paused, "still_paused": still_paused})
    elif was_paused:
        output.line(f"{_named(lane)} resumed")
    else:
        output.line(f"nothing to resume: there is no pause of {'all lanes' if lane == 'all' else f'lane {lane}'}")
    for other in [] if as_json else still_paused:
        output.line(f"still paused: {other} (b2copy-sync resume --lane {other} --why ...)")
    if not was_paused:
        raise typer.Exit(Exit.FAILED)


def _named(lane: str) -> str:
    return "all lanes are" if lane == "all" else f"lane {lane} is"
