"""Pause and resume."""

from typing import Annotated, Literal

import typer

from worker.cli import output
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import By, Json, Why

Paused = Annotated[Literal["all", "money", "default", "bulk"], typer.Option(help="Which lane, or all of them.")]


def pause(why: Why, by: By, lane: Paused = "all", as_json: Json = False) -> None:
    """Send nothing more from a lane, in the whole fleet, until it is resumed.

    What is being sent is finished; everything else waits in the ledger, and is still accepted.
    """
    from worker.ledger import active_flags
    from worker.ledger import pause as stop

    with existing_ledger() as ledger:
        stop(ledger, lane, by, why)
        flag = active_flags(ledger)[f"pause:{lane}"]
    if as_json:
        output.document(
            {"lane": lane, "paused": True, "since": output.iso(flag.at), "actor": flag.actor, "note": flag.note}
        )
    else:
        output.line(f"{_named(lane)} paused since {output.clock(flag.at)} UTC, by {flag.actor}: {flag.note}")


def resume(why: Why, by: By, lane: Paused = "all", as_json: Json = False) -> None:
    """Send again what a pause has held back."""
    from worker.ledger import active_flags
    from worker.ledger import resume as go_on
    from worker.messages.wake_up import wake
    from worker.queues import LANES
    from worker.settings import CrmSettings, load

    settings = load(CrmSettings)
    with existing_ledger(settings) as ledger:
        was = go_on(ledger, lane, by, why)
        still = [name.removeprefix("pause:") for name in active_flags(ledger) if name.startswith("pause:")]
    for each in LANES if lane == "all" else [lane]:
        wake(each)
    if as_json:
        output.document({"lane": lane, "was_paused": was, "still_paused": still})
        return
    output.line(f"{_named(lane)} resumed" if was else "not paused: nothing to resume")
    if still:
        output.line(f"still paused: {', '.join(still)} (b2copy-sync resume --lane ...)")


def _named(lane: str) -> str:
    return "all lanes are" if lane == "all" else f"lane {lane} is"
