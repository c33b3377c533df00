"""`doctor`: is everything there that a worker needs? One line a check, with the remedy."""

from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.doctor import CheckResult

_STYLES = {"ok": "green", "warn": "yellow", "FAIL": "bold red", "skip": "dim"}


def doctor(
    login: Annotated[bool, typer.Option("--login", help="Renew the sessions, even valid ones.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Open no connection: check only the settings and the key files.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check everything a worker needs, a line each: ok, warn or FAIL, and what to do.

    Settings, key files, the ledger, Redis and who else uses it, running workers, B2COPY and its clock, and the shared
    session: one that exists is used; if there is none, it logs in like any worker would. The same for each other login
    that is set. A failing check does not stop the others. Exit code 1 if a check failed, 2 if it was a
    setting.
    """
    from worker.doctor.run_checks import examine

    results: list[CheckResult] = []
    for result in examine(login, offline):
        results.append(result)
        if not as_json:
            _print(result)
    failed = [result for result in results if result.grade == "FAIL"]
    if as_json:
        output.document({"ok": not failed, "checks": [result._asdict() for result in results]})
    elif not failed:
        warnings = sum(result.grade == "warn" for result in results)
        output.line()
        output.line(f"nothing failed{f', {warnings} to look at' if warnings else ''}")
    if failed:
        raise typer.Exit(Exit.USAGE if any(result.check == "settings" for result in failed) else Exit.FAILED)


def _print(result: "CheckResult") -> None:
    text = output.safe(f"{result.grade:<5}", _STYLES[result.grade])
    text += output.safe(f"{result.check:<10}", "bold")
    text += output.safe(result.message)
    if result.remedy:
        text += output.safe(f": {result.remedy}")
    output.out().print(text, soft_wrap=True)
