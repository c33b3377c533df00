"""The fleet's shared session at B2COPY: show it, renew it, forget it. No token is ever printed."""

from typing import TYPE_CHECKING

import typer

from worker.cli import output
from worker.cli.exits import EXITS, Exit
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.session import SharedSession

app = typer.Typer(help="The fleet's shared session: show, renew or forget it.", no_args_is_help=True, epilog=EXITS)

PATIENCE_S = 30.0  # seconds to wait for another process's renewal


@app.command(epilog=EXITS)
def show(as_json: Json = False) -> None:
    """Show the session: its age, how long it is valid, who made it with which key. Changes nothing, asks nobody."""
    from worker.report.session import document, facts

    state = _session().state()
    if as_json:
        output.document(document(state))
    else:
        output.facts(facts(state))


@app.command(epilog=EXITS)
def renew(as_json: Json = False) -> None:
    """Renew the session now, as a worker would, but also during a cool-down."""
    from worker.report.session import OUTCOMES, RENEWED

    renewal = _session().renew("operator", force=True, wait=PATIENCE_S)
    renewed = renewal.outcome in RENEWED
    if as_json:
        output.document({"outcome": renewal.outcome, "generation": renewal.generation, "renewed": renewed})
    else:
        output.line(f"generation {renewal.generation}: {OUTCOMES[renewal.outcome]}")
    if not renewed:
        raise typer.Exit(Exit.FAILED)


@app.command(epilog=EXITS)
def forget(as_json: Json = False) -> None:
    """Remove the session and any cool-down from Redis: the next call logs in. No operation is lost by it."""
    session = _session()
    generation = session.state().generation
    session.forget()
    if as_json:
        output.document({"forgotten": generation or None})
    else:
        what = f"generation {generation} is forgotten" if generation else "there was no session"
        output.line(f"{what}: the next call logs in")


def _session() -> "SharedSession":
    from worker.doctor.session import quiet_session
    from worker.settings import Settings, load

    return quiet_session(load(Settings))
