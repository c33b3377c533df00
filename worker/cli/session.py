"""The fleet's shared session at B2COPY: look at it, renew it, forget it. No token is ever printed."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from worker.cli import output
from worker.cli.exits import EXITS, Exit
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.session import SharedSession, State

app = typer.Typer(help="The fleet's shared session: show, renew or forget it.", no_args_is_help=True, epilog=EXITS)

PATIENCE = 30.0  # seconds to wait for another process's renewal


@app.command(epilog=EXITS)
def show(as_json: Json = False) -> None:
    """Show the session: its age, how long it is good, who made it with which key. Changes and asks nothing."""
    state = _session().state()
    if as_json:
        output.document(_document(state))
        return
    output.facts(_facts(state))


@app.command(epilog=EXITS)
def renew(as_json: Json = False) -> None:
    """Renew the session now, like any leader: under the lease, in spite of a cool-down."""
    from worker.report.session import OUTCOMES

    renewal = _session().renew("operator", force=True, wait=PATIENCE)
    done = renewal.outcome in {"refresh", "login", "adopted", "conflict"}
    if as_json:
        output.document({"outcome": renewal.outcome, "generation": renewal.generation, "renewed": done})
    else:
        output.line(f"generation {renewal.generation}: {OUTCOMES[renewal.outcome]}")
    if not done:
        raise typer.Exit(Exit.FAILED)


@app.command(epilog=EXITS)
def forget(as_json: Json = False) -> None:
    """Remove the session from Redis, and any cool-down: whoever needs a token next logs in. Nothing is lost by it."""
    session = _session()
    generation = session.state().generation
    session.forget()
    if as_json:
        output.document({"forgotten": generation or None})
    else:
        what = f"generation {generation} is forgotten" if generation else "there was no session"
        output.line(f"{what}: the next call logs in")


def _session() -> "SharedSession":
    from worker.report.session import quiet_session
    from worker.settings import Settings, load

    return quiet_session(load(Settings))


def _document(state: "State") -> dict[str, Any]:
    """Durations are in seconds from now."""
    return {
        "generation": state.generation or None,
        "fingerprint": state.fingerprint,
        "origin": state.origin,
        "key_id": state.credential,
        "writer": state.written_by,
        "readable": state.readable,
        "age_seconds": state.age,
        "expires_in_seconds": state.expires_in,
        "renews_in_seconds": state.renews_in,
        "refresh_token_used": state.refresh_token_used,
        "leader": state.leader,
        "cooldown": state.cooldown and asdict(state.cooldown),
    }


def _facts(state: "State") -> list[tuple[str, str]]:
    if state.generation:
        left, renews = state.expires_in or 0.0, state.renews_in or 0.0
        facts = [
            ("generation", str(state.generation)),
            (
                "made by",
                f"a {state.origin} with key {state.credential}, {state.written_by}",
            ),
            ("age", output.span(state.age or 0.0)),
            ("expires", f"in {output.span(left)}" if left > 0 else "expired"),
            ("renewed", f"in {output.span(renews)}" if renews > 0 else "due"),
            ("fingerprint", state.fingerprint or ""),
            ("refresh token", "used: the next renewal is a login" if state.refresh_token_used else "unused"),
            ("readable", "" if state.readable else "NO: no storage key opens it; the next call logs in"),
        ]
    else:
        facts = [("session", "none: the next call logs in")]
    facts.append(("being renewed by", state.leader or ""))
    if state.cooldown:
        cooldown = state.cooldown
        facts.append(("nobody asks for", f"{output.span(cooldown.left)} ({cooldown.kind}): {cooldown.reason}"))
    return facts
