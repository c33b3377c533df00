"""`read`: read something at B2COPY through a worker, as a CRM host does."""

import json
import sys
from typing import Annotated

import typer

from worker.cli import output
from worker.cli.options import Json, duration, named_texts
from worker.cli.payload_fields import fields_of


def read(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="What to read, e.g. account_detail.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE", help="The parameters. One that is no text takes JSON."),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(parser=duration, metavar="DURATION", help="Wait no longer than this for a worker, 60s at most."),
    ] = "10s",  # type: ignore[assignment]  # typer parses it
    as_json: Json = False,
) -> None:
    """Read something at B2COPY now, through a worker, and print it as JSON.

    For example `b2copy-sync read account_detail login=700100`. This host needs no key, and the read leaves no row in
    the ledger. A wrong WHAT lists all reads with their parameters. Of seamless_url it prints the URL, which logs its
    client in; the workers' B2COPY_READS must list it. Exits with 1 if B2COPY refuses or no worker answers in time.
    """
    from tasks import enqueue
    from tasks.reads import SEAMLESS_URL, read_named
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    chosen = read_named(what)
    value = enqueue.read(what, timeout_s=timeout, **fields_of(chosen, named_texts(values or [], "NAME=VALUE")))
    if what != SEAMLESS_URL:
        output.document(value)
        return
    sys.stdout.write((json.dumps({"url": value.reveal()}) if as_json else value.reveal()) + "\n")
    sys.stdout.flush()
