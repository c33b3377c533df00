"""`b2copy-sync`: the command line. One file a group of commands; what a command needs it imports when it runs."""

import io
import logging
import os
import sys

import typer

from worker.cli import (
    accounts,
    approvals,
    clients,
    console,
    console_user,
    demo,
    doctor,
    failed,
    health,
    identity,
    import_file,
    keygen,
    list_operations,
    metrics,
    migrate,
    output,
    pause,
    purge,
    read,
    reconcile,
    request,
    sandbox,
    session,
    start,
    status,
    verify,
    webhook,
)
from worker.cli.exit_codes import EXITS, Exit, Stop, stopped_by
from worker.watch.log_redaction import guard

app = typer.Typer(
    name="b2copy-sync",
    help="Keep a broker's CRM and B2COPY in step: request operations, see how they stand, decide on failed ones.",
    epilog=EXITS,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",  # joins a docstring's lines to paragraphs
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SET_UP = "Set up"
OPERATIONS = "Operations"
OPERATE = "Operate"

for command, panel in (
    (demo.demo, SET_UP),
    (keygen.keygen, SET_UP),
    (migrate.migrate, SET_UP),
    (doctor.doctor, SET_UP),
    (verify.verify, SET_UP),
    (sandbox.sandbox, SET_UP),
    (request.fees, OPERATIONS),
    (request.call, OPERATIONS),
    (request.request, OPERATIONS),
    (clients.seamless_url, OPERATIONS),
    (read.read, OPERATIONS),
    (status.status, OPERATIONS),
    (list_operations.list_, OPERATIONS),
    (health.health, OPERATE),
    (reconcile.reconcile, OPERATE),
    (metrics.metrics, OPERATE),
    (pause.pause, OPERATE),
    (pause.resume, OPERATE),
    (purge.purge, OPERATE),
    (console.console, OPERATE),
    (console_user.console_user, OPERATE),
):
    app.command(command.__name__.rstrip("_").replace("_", "-"), rich_help_panel=panel, epilog=EXITS)(command)
for celerys in (start.worker, start.beat):
    app.command(rich_help_panel=OPERATE, epilog=EXITS, context_settings=start.ALL_OPTIONS)(celerys)
app.add_typer(import_file.app, name="import", rich_help_panel=OPERATIONS)
app.add_typer(clients.app, name="clients", rich_help_panel=OPERATIONS)
app.add_typer(accounts.app, name="accounts", rich_help_panel=OPERATIONS)
app.add_typer(identity.app, name="identity", rich_help_panel=OPERATIONS)
app.add_typer(failed.app, name="failed", rich_help_panel=OPERATIONS)
app.add_typer(approvals.app, name="approvals", rich_help_panel=OPERATIONS)
app.add_typer(session.app, name="session", rich_help_panel=OPERATE)
app.add_typer(webhook.app, name="webhook", rich_help_panel=OPERATE)


def main() -> None:
    """Run a command. What goes wrong is a line or two on stderr, and an exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by `>&-`
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    guard()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a message of B2COPY may hold what this terminal's encoding does not
    try:
        _check_arguments()
        sys.exit(app(standalone_mode=False))
    except Exception as error:
        stopped = stopped_by(error)
        if stopped is None:
            raise
        for text in stopped.lines:
            output.note(text)
        sys.exit(stopped.code)


def _check_arguments() -> None:
    """Refuse bytes that are not UTF-8. Python passes them on as lone surrogates, which no database takes."""
    for argument in sys.argv[1:]:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise Stop(Exit.USAGE, f"the argument {argument} is not UTF-8") from None
