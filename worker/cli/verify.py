"""`verify`: compare what we assume about B2COPY with a B2COPY."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.doctor.verify_b2copy import Finding

_STYLES = {"as assumed": "green", "differs": "bold yellow", "not seen": "dim"}


def verify(
    host: Annotated[
        str | None, typer.Option(metavar="URL", help="The B2COPY to ask.", show_default="B2COPY_HOST")
    ] = None,
    file: Annotated[
        Path, typer.Option("--to", metavar="FILE", help="Where the findings are recorded; it is replaced.")
    ] = Path("b2copy-verify.json"),
    as_json: Json = False,
) -> None:
    """Compare what b2copy-sync only assumes about B2COPY with what this B2COPY does.

    B2COPY's documentation leaves much open. Every request reads: no fee run is started, no account is opened. The
    session is renewed once, as workers do. The file can be sent to the makers of b2copy-sync: it holds statuses, forms
    and field names, and no token, id, host, name or amount. Needs a worker's settings. Exit code 1 if something
    differs.
    """
    from worker.doctor.verify_b2copy import Finding, document, private_values
    from worker.doctor.verify_b2copy import verify as all_findings
    from worker.instances import usable_session
    from worker.settings import Settings, load

    if host is not None:
        os.environ["B2COPY_HOST"] = host
    settings = load(Settings)
    findings: list[Finding] = []
    output.mute_session()
    for finding in all_findings(settings, usable_session()):
        findings.append(finding)
        if not as_json:
            _print(finding)
    text = document(findings, private_values(settings))
    file.write_text(text)
    if as_json:
        output.out().file.write(text)
    else:
        output.note(f"recorded in {file}: read it, then send it to the makers of b2copy-sync")
    if any(finding.verdict == "differs" for finding in findings):
        raise typer.Exit(Exit.FAILED)


def _print(finding: "Finding") -> None:
    text = output.safe(f"{finding.verdict:<11}", _STYLES[finding.verdict])
    text += output.safe(f"{finding.check:<20}", "bold")
    text += output.safe(f"{finding.assumption}: {finding.seen}" if finding.assumption else finding.seen)
    if finding.means:
        text += output.safe(f". {finding.means}")
    output.out().print(text, soft_wrap=True)
