"""`console-user`: a person of the console's password file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop
from worker.cli.options import Json
from worker.console.roles import Role


def console_user(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The person; stored as the actor of every decision.")],
    role: Annotated[
        list[Role],
        typer.Option(metavar="ROLE", help="viewer, operator or approver: what the person may do; may be repeated."),
    ],
    file: Annotated[
        Path,
        typer.Option(envvar="B2COPY_CONSOLE_PASSWORD_FILE", help="The file with the people who may use the console."),
    ],
    as_json: Json = False,
) -> None:
    """Add a person to the console, or set another password and other roles. The password is read, not shown."""
    try:
        from worker.console.password_access import set_person
    except ModuleNotFoundError as error:
        raise Stop(Exit.USAGE, f"this needs the package {error.name}: install b2copy-sync[console]") from None

    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.buffer.readline().decode(errors="replace").rstrip("\r\n")
        if not password.isprintable() or "\ufffd" in password:
            password = ""
            raise Stop(Exit.USAGE, "standard input must hold the password as one line of UTF-8 text")
    roles = list(dict.fromkeys(role))
    set_person(file, name, password, roles)
    if as_json:
        output.document({"name": name, "roles": roles})
    else:
        output.line(f"{name}: {', '.join(roles)}")
