"""Pause and resume."""

from typing import Annotated, Literal

import typer

from worker.cli import say
from worker.cli.ledger import existing_ledger
from worker.cli.options import By, Json, Why

Paused = Annotated[Literal["all", "money", "default", "bulk"], typer.Option(help="Which lane, or all of them.")]


def pause(why: Why, by: By, lane: Paused = "all", as_json: Json = False) -> None:
    """Send nothing more from a lane, in the whole fleet, until it is resumed.

    What is being sent is finished; everything else waits in the ledger, and is still accepted.
    """
    from worker.ledger import pause as stop
    from worker.ledger import raised

    with existing_ledger() as ledger:
        stop(ledger, lane, by, why)
        flag = raised(ledger)[f"pause:{lane}"]
    if as_json:
        say.document({"lane": lane, "paused": True, "since": say.iso(flag.at), "who": flag.who, "why": flag.why})
    else:
        say.line(f"{_named(lane)} paused since {say.clock(flag.at)} UTC, by {flag.who}: {flag.why}")


def resume(why: Why, by: By, lane: Paused = "all", as_json: Json = False) -> None:
    """Send again what a pause has held back."""
    from tasks.wake import wake
    from worker.ledger import LANES, raised
    from worker.ledger import resume as go_on
    from worker.settings import CrmSettings, load

    settings = load(CrmSettings)
    with existing_ledger(settings) as ledger:
        was = go_on(ledger, lane, by, why)
        still = [name.removeprefix("pause:") for name in raised(ledger) if name.startswith("pause:")]
    for each in LANES if lane == "all" else [lane]:
        wake(each)
    if as_json:
        say.document({"lane": lane, "was_paused": was, "still_paused": still})
        return
    say.line(f"{_named(lane)} resumed" if was else "not paused: nothing to resume")
    if still:
        say.line(f"still paused: {', '.join(still)} (b2copy-sync resume --lane ...)")


def _named(lane: str) -> str:
    return "all lanes are" if lane == "all" else f"lane {lane} is"
