"""`clients` and `seamless-url`: register clients at B2COPY, and log one in."""

import sys
from typing import Annotated

import typer

from worker.cli.exit_codes import EXITS
from worker.cli.options import By, Json, Login, Platform
from worker.cli.wait_for_end import Timeout, Wait, follow

app = typer.Typer(help="Clients at B2COPY: register them.", no_args_is_help=True, epilog=EXITS)


@app.callback()
def _group() -> None:
    """Make `register` a command of its own although it is the only one."""


@app.command(epilog=EXITS)
def register(
    login: Login,
    by: By,
    platform: Platform = 1,
    crm_id: Annotated[str | None, typer.Option("--crm-id", help="The CRM's id of the client.")] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Register the client of an MT login, which gives it a payment account. The same login is registered once.

    If an answer is lost and B2COPY_DUPLICATE_CLIENTS is unknown, the operation ends as failed (unresolved): look the
    client up in the Back Office, then do what `b2copy-sync failed show KEY` says.
    """
    from tasks import enqueue
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    follow(enqueue.register_client(login=login, platform=platform, crm_id=crm_id, by=by), wait, timeout, as_json)


def seamless_url(login: Login, platform: Platform = 1, as_json: Json = False) -> None:
    """Print the URL that logs a client in. Anybody who has the URL is logged in, so it is stored and logged nowhere.

    Needs a worker's settings and B2COPY_SEAMLESS_SECRET_FILE.
    """
    import json

    from worker.b2copy.routes.seamless_login import Visitor
    from worker.b2copy.seamless_secret import seamless_secret
    from worker.http import event_loop
    from worker.instances import b2copy
    from worker.settings import Settings, load

    visitor = Visitor(account=login, secret_key=seamless_secret(load(Settings)), platform=str(platform))
    url = event_loop().run(b2copy().seamless_url(visitor)).reveal()
    sys.stdout.write((json.dumps({"login": login, "platform": platform, "url": url}) if as_json else url) + "\n")
    sys.stdout.flush()
