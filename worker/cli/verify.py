"""`verify`: compare what we assume about B2COPY with a B2COPY."""

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker import secret_file
from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
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
    differs, or if B2COPY does not answer: then the file stays as it is.
    """
    from worker.doctor.verify_b2copy import Finding, document, private_values
    from worker.doctor.verify_b2copy import verify as all_findings
    from worker.instances import usable_session
    from worker.settings import Settings, load

    if host is not None:
        os.environ["B2COPY_HOST"] = host
    settings = load(Settings)
    _check_writable(file)
    findings: list[Finding] = []
    output.mute_session()
    for finding in all_findings(settings, usable_session()):
        findings.append(finding)
        if not as_json:
            _print(finding)
    text = document(findings, private_values(settings))
    if as_json:
        output.out().file.write(text)
    if all(finding.verdict == "not seen" for finding in findings):
        unchanged = f"{file} is unchanged" if file.exists() else "and no file was written"
        raise Stop(Exit.FAILED, f"B2COPY does not answer: nothing was compared, {unchanged}")
    _write(file, text)
    if not as_json:
        output.note(f"recorded in {file}: read it, then send it to the makers of b2copy-sync")
    if any(finding.verdict == "differs" for finding in findings):
        raise typer.Exit(Exit.FAILED)


def _check_writable(file: Path) -> None:
    """Raise `typer.BadParameter` if the findings could not be written at the end."""
    problem = ""
    if file.is_dir():
        problem = f"{file} is a folder: name a file"
    elif not file.parent.is_dir():
        problem = f"there is no folder {file.parent}"
    elif not os.access(file if _is_device(file) else file.resolve().parent, os.W_OK):
        problem = f"{file} cannot be written: its folder or the file system is read-only for this user"
    if problem:
        raise typer.BadParameter(problem, param_hint="--to")


def _write(file: Path, text: str) -> None:
    """Write the findings as a whole, so that a full disk leaves the ones before as they are."""
    if _is_device(file):
        file.write_text(text)
        return
    mode = stat.S_IMODE(file.stat().st_mode) if file.exists() else 0o644
    secret_file.write(file.resolve(), text.encode(), mode, replace=True)


def _is_device(file: Path) -> bool:
    """Return whether it is there and no regular file, such as /dev/stdout: it cannot be replaced."""
    return file.exists() and not file.is_file()


def _print(finding: "Finding") -> None:
    text = output.safe(f"{finding.verdict:<11}", _STYLES[finding.verdict])
    text += output.safe(f"{finding.check:<20}", "bold")
    text += output.safe(f"{finding.assumption}: {finding.seen}" if finding.assumption else finding.seen)
    if finding.means:
        text += output.safe(f". {finding.means}")
    output.out().print(text, soft_wrap=True)
