"""`doctor`: is everything there that a worker needs? One line a check, with the remedy."""

from collections.abc import Iterator
from typing import Annotated

import typer

from worker.cli import output
from worker.cli.exits import Exit
from worker.cli.options import Json
from worker.doctor import checks
from worker.doctor.checks import FAIL, Finding

_STYLES = {"ok": "green", "warn": "yellow", FAIL: "bold red", "skip": "dim"}


def doctor(
    login: Annotated[bool, typer.Option("--login", help="Renew the session, even a good one.")] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask nobody: only the settings and the key files are looked at.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check everything a worker needs, a line each: ok, warn or FAIL, and what to do.

    Settings, key files, the ledger, Redis and who else uses it, running workers, B2COPY and its clock, and the shared
    session: one that exists is used, only if there is none it logs in, like any worker would. A failing check does not
    stop the others. Exit code 1 if a check failed, 2 if it was a setting.
    """
    found: list[Finding] = []
    for finding in _examine(login, offline):
        found.append(finding)
        if not as_json:
            _tell(finding)
    failed = [finding for finding in found if finding.verdict == FAIL]
    if as_json:
        output.document({"ok": not failed, "checks": [finding._asdict() for finding in found]})
    elif not failed:
        warned = sum(finding.verdict == "warn" for finding in found)
        output.line(f"\nnothing failed{f', {warned} to look at' if warned else ''}")
    if failed:
        raise typer.Exit(Exit.USAGE if any(one.check == "settings" for one in failed) else Exit.FAILED)


def _examine(login: bool, offline: bool) -> Iterator[Finding]:
    settings = yield from checks.settings()
    if settings.worker:
        yield from checks.key_files(settings.worker)
    if offline:
        yield Finding("the rest", "skip", "not asked: --offline")
        return
    if settings.ledger:
        yield from checks.ledger(settings.ledger)
    if settings.crm:
        yield from checks.redis(settings.crm)
    if settings.worker:
        yield from checks.b2copy(settings.worker)
        yield from checks.session(settings.worker, login)


def _tell(finding: Finding) -> None:
    from rich.text import Text

    text = Text.assemble(
        (f"{finding.verdict:<5}", _STYLES[finding.verdict]),
        (f"{finding.check:<10}", "bold"),
        output.printable(finding.said),
    )
    if finding.remedy:
        text.append(f": {output.printable(finding.remedy)}")
    output.out().print(text, soft_wrap=True)
