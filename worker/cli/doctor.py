"""`doctor`: is everything there that a worker needs? One line a check, with the remedy."""

import re
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from worker.cli import output
from worker.cli.exit_codes import Exit
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.doctor import CheckResult

_STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red", "skip": "dim"}
_ENDS_IN_COMMAND = re.compile(r"(.*?)(?:`([^`]+)`)?", re.S)


def doctor(
    login: Annotated[
        bool, typer.Option("--login", help="Log in with this host's own key or password, even if a session is valid.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Open no connection: check only the settings and the key files.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check everything a worker needs, a line each: ok, warn, FAIL or skip, and what to do.

    Settings, key files, the ledger, Redis and who else uses it, running workers, B2COPY and its clock, and the shared
    session: one that exists is used; if there is none, it logs in like any worker would. The same for each other login
    that is set. A failing check does not stop the others. Exit code 1 if a check failed, 2 if it was a
    setting.

    After a login of --login every worker uses the new session. If B2COPY allows an admin one session only, the login
    ends the one before: calls under way get a 401, and are repeated with the new token. A refused login changes
    nothing.
    """
    from worker.doctor.run_checks import examine

    output.mute_session()
    results: list[CheckResult] = []
    for result in examine(login, offline):
        results.append(result)
        if not as_json:
            _print(result)
    failed = [result for result in results if result.grade == "FAIL"]
    if as_json:
        output.document({"ok": not failed, "checks": [result._asdict() for result in results]})
    else:
        warnings = sum(result.grade == "warn" for result in results)
        summary = f"{len(failed)} failed, begin with the first one" if failed else "nothing failed"
        output.line()
        output.line(f"{summary}{f'; {warnings} to look at' if warnings else ''}")
    if failed:
        raise typer.Exit(Exit.USAGE if any(result.check == "settings" for result in failed) else Exit.FAILED)


def _print(result: "CheckResult") -> None:
    """Print one line. In a terminal, wrap the text beside the check's name and give the remedy lines of its own."""
    grade = output.safe(f"{result.grade:<5}", _STYLES[result.grade])
    check = output.safe(f"{result.check:<14}", "bold")
    if not output.out().is_terminal:
        text = f"{result.message}: {result.remedy}" if result.remedy else result.message
        output.out().print(Text.assemble(grade, check, output.safe(text)), soft_wrap=True)
        return
    remedy, command = _ENDS_IN_COMMAND.fullmatch(result.remedy).groups()  # type: ignore[union-attr]  # matches any text
    grid = Table.grid()
    grid.add_row(grade, check, output.safe(result.message))
    if remedy:
        grid.add_row("", "", output.safe(f"-> {remedy.strip()}"))
    output.out().print(grid)
    if command:  # the terminal wraps it, so that it can be copied as one line
        output.line(f"{'':5}{command}", "bold")
