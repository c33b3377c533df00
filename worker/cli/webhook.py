"""`webhook`: send the CRM a sample notice, and check a notice that it received."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exit_codes import EXITS, Exit
from worker.cli.options import Json

if TYPE_CHECKING:
    from worker.b2copy.route import Route
    from worker.settings import Settings

app = typer.Typer(help="The CRM's webhook: send a sample, check a notice.", no_args_is_help=True, epilog=EXITS)


@app.command("test", epilog=EXITS)
def send_sample(as_json: Json = False) -> None:
    """Send a signed sample to B2COPY_WEBHOOK_URL, and to B2COPY_NOTIFY_TASK, as a worker would send a notice.

    Its type is `webhook.test`, its key `fees.process:webhook-test-only` and its state `cancelled`. A receiver must
    ignore each notice whose type does not begin with `operation.`, and answer it with 2xx.
    """
    from worker.errors import SettingsError
    from worker.settings import Settings, load
    from worker.webhook.endpoint import check_webhook
    from worker.webhook.notice_routes import notice_routes

    settings = load(Settings)
    if not settings.wants_notices:
        raise SettingsError("B2COPY_WEBHOOK_URL and B2COPY_NOTIFY_TASK are not set: the CRM gets no notices")
    check_webhook(settings)
    found = [_try(settings, route) for route in notice_routes(settings)]
    if as_json:
        output.document(found[0] if len(found) == 1 else {"routes": found})
    for one in found if not as_json else ():
        proof = f"answered {one['status']}" if "url" in one else "is in the queue; a worker of the CRM reads it there"
        where = one.get("url") or f"task {one['task']}"
        output.line(f"delivered: {where} {proof}" if one["delivered"] else f"not delivered: {where}: {one['problem']}")
    if not all(one["delivered"] for one in found):
        raise typer.Exit(Exit.FAILED)


def _try(settings: "Settings", route: "Route[Any]") -> dict[str, Any]:
    """Send a sample in one way, and return what came of it."""
    from worker.errors import B2CopyError
    from worker.http import event_loop
    from worker.operation import OnUnknown
    from worker.webhook.crm_destination import Crm
    from worker.webhook.notice_routes import PUBLISH
    from worker.webhook.sample_notice import sample

    notice_id, body = sample()
    problem: B2CopyError | None = None
    status: int | None
    try:
        answer = event_loop().run(Crm(settings).send(route, {"id": notice_id, "body": body}, OnUnknown.REPEAT))
        status = answer.status if answer else None
    except B2CopyError as error:
        problem, status = error, error.status
    where = {"task": settings.notify_task} if route.name == PUBLISH.name else {"url": settings.webhook_url}
    found = {"id": notice_id, "status": status, "delivered": problem is None, "problem": problem and str(problem)}
    return where | found


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
