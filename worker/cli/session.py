"""The fleet's shared session at B2COPY: show it, renew it, forget it. No token is ever printed."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import EXITS, Exit
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.session import SharedSession

app = typer.Typer(help="The fleet's shared session: show, renew or forget it.", no_args_is_help=True, epilog=EXITS)


def _known(login: str) -> str:
    from worker.settings import LOGIN_FIELDS

    if login not in LOGIN_FIELDS:
        raise typer.BadParameter(f"{login!r} is not one of {', '.join(LOGIN_FIELDS)}")
    return login


WhoseSession = Annotated[
    str, typer.Option("--login", callback=_known, help="Whose session: a login that is set, as `doctor` lists it.")
]


@app.command(epilog=EXITS)
def show(login: WhoseSession = "service_admin", as_json: Json = False) -> None:
    """Show the session: its age, how long it is valid, who made it with which key. Changes nothing, asks nobody."""
    from worker.report.session_report import document, facts

    state = _session(login).state()
    if as_json:
        output.document(document(state))
    else:
        output.facts(facts(state))


@app.command(epilog=EXITS)
def renew(login: WhoseSession = "service_admin", as_json: Json = False) -> None:
    """Renew the session now, as a worker would, but also during a cool-down."""
    from worker.doctor.check_session import PATIENCE_S
    from worker.report.session_report import OUTCOMES, RENEWED

    renewal = _session(login).renew("operator", force=True, wait=PATIENCE_S)
    renewed = renewal.outcome in RENEWED
    if as_json:
        output.document({"outcome": renewal.outcome, "generation": renewal.generation, "renewed": renewed})
    else:
        output.line(f"generation {renewal.generation}: {OUTCOMES[renewal.outcome]}")
    if not renewed:
        raise typer.Exit(Exit.FAILED)


@app.command(epilog=EXITS)
def forget(login: WhoseSession = "service_admin", as_json: Json = False) -> None:
    """Remove the session and any cool-down from Redis: the next call logs in. No operation is lost by it.

    For the Back Office, a password that was refused is then tried again. Do that when the account has been unlocked.
    """
    session = _session(login)
    generation = session.state().generation
    session.forget()
    if as_json:
        output.document({"forgotten": generation or None})
    else:
        what = f"generation {generation} is forgotten" if generation else "there was no session"
        output.line(f"{what}: the next call logs in")


def _session(login: str) -> "SharedSession":
    from worker.instances import usable_session

    output.mute_session()
    return usable_session(login)
