"""`console`: web pages for operators, on-call engineers and compliance officers."""

from typing import Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop


def console(
    listen: Annotated[str, typer.Option(metavar="ADDRESS:PORT", help="Where it listens.")] = "127.0.0.1:8080",
    alone: Annotated[
        bool,
        typer.Option(
            "--yes-i-am-alone",
            help="Without access control: everybody who reaches the loopback address may do everything, in your name.",
        ),
    ] = False,
) -> None:
    """Serve the operations console: what runs, what waits and why, what a person must decide.

    By default it listens on the loopback address and only reads. B2COPY_CONSOLE_ACCESS opens it to people who are
    known: by a proxy in front, or by a file of passwords (`console-user`).
    """
    try:
        from worker.console.serve import serve, split_address
    except ModuleNotFoundError as error:
        if error.name not in {"starlette", "jinja2", "uvicorn", "argon2"}:
            raise
        raise Stop(Exit.USAGE, f"the console needs the package {error.name}: install b2copy-sync[console]") from None
    from worker.settings import ConsoleSettings, load

    settings = load(ConsoleSettings)
    host, port = split_address(listen)
    serve(settings, host, port, alone, lambda: output.note(f"console on http://{listen}, ends with Ctrl-C"))
