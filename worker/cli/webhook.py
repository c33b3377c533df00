"""`webhook`: try the CRM's webhook, and check a notice that it received."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import EXITS, Exit
from worker.cli.options import Json

app = typer.Typer(help="The CRM's webhook: send a sample, check a notice.", no_args_is_help=True, epilog=EXITS)


@app.command("test", epilog=EXITS)
def send_sample(as_json: Json = False) -> None:
    """Send a signed sample to B2COPY_WEBHOOK_URL, as a worker would send a notice. Its type is `webhook.test`."""
    from worker.errors import B2CopyError, SettingsError
    from worker.http import event_loop
    from worker.settings import Settings, load
    from worker.webhook.endpoint import Endpoint, check_webhook
    from worker.webhook.sample_notice import sample

    settings = load(Settings)
    if settings.webhook_url is None:
        raise SettingsError("B2COPY_WEBHOOK_URL is not set: the CRM gets no notices")
    check_webhook(settings)
    notice_id, body = sample()
    problem: B2CopyError | None = None
    status: int | None
    try:
        status = event_loop().run(Endpoint(settings).deliver(notice_id, body)).status
    except B2CopyError as error:
        problem, status = error, error.status
    if as_json:
        found = {"url": settings.webhook_url, "id": notice_id, "status": status, "delivered": problem is None}
        output.document({**found, "problem": problem and str(problem)})
    elif problem is None:
        output.line(f"delivered: {settings.webhook_url} answered {status}")
    else:
        output.line(f"not delivered: {settings.webhook_url}: {problem}")
    if problem is not None:
        raise typer.Exit(Exit.FAILED)


@app.command(epilog=EXITS)
def verify(
    notice_id: Annotated[str, typer.Option("--id", help="The header webhook-id.")],
    timestamp: Annotated[str, typer.Option(help="The header webhook-timestamp.")],
    signature: Annotated[str, typer.Option(help="The header webhook-signature.")],
    secret_file: Annotated[Path, typer.Option(envvar="B2COPY_WEBHOOK_SECRET_FILE", help="The secrets, one per line.")],
    as_json: Json = False,
) -> None:
    """Read the body of a notice from stdin, and say whether it is genuine and at most 5 minutes old."""
    from worker.webhook.signing import read_secrets

    headers = {"webhook-id": notice_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
    problem = read_secrets(secret_file).problem(sys.stdin.buffer.read(), headers)
    if as_json:
        output.document({"genuine": problem is None, "problem": problem})
    else:
        output.line("genuine" if problem is None else f"not to be trusted: {problem}")
    if problem is not None:
        raise typer.Exit(Exit.FAILED)
