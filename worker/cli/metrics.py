"""`metrics`: what the ledger holds, for a scraper."""

import threading
from typing import Annotated

import typer

from worker.cli import output
from worker.cli.exit_codes import Exit, Stop

DEFAULT_LISTEN = "127.0.0.1:9465"


def metrics(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to serve; a port alone is on 127.0.0.1.")
    ] = DEFAULT_LISTEN,
    once: Annotated[
        bool, typer.Option("--once", help="Print the metrics once and end; exit code 1 if the ledger cannot be read.")
    ] = False,
) -> None:
    """Serve the metrics of the ledger: ages, backlog, what waits and why, what failed.

    One such process for each ledger is enough. Workers serve their own metrics at B2COPY_METRICS_LISTEN.
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from pydantic import TypeAdapter, ValidationError

    from tasks.registry import ALL_KINDS
    from worker.ledger import open_ledger
    from worker.report.ledger_metrics import UP, LedgerCollector
    from worker.settings import LedgerSettings, Listen, load
    from worker.watch.metrics_server import serve

    settings = load(LedgerSettings)
    registry = CollectorRegistry()
    registry.register(LedgerCollector(lambda: open_ledger(settings.database_url), ALL_KINDS))
    if once:
        text = generate_latest(registry).decode()
        output.out().file.write(text)
        if f"{UP[0]} 1.0" not in text.splitlines():  # not a second reading, which may find another state
            raise typer.Exit(Exit.FAILED)
        return
    try:
        address = TypeAdapter(Listen).validate_python(listen)
    except ValidationError:
        raise typer.BadParameter("must be host:port, for instance 127.0.0.1:9465", param_hint="--listen") from None
    try:
        serve(address, registry)
    except OSError as error:
        problem = f"{address} cannot be used: {error.strerror or error}; choose another address by --listen"
        raise Stop(Exit.FAILED, problem) from None
    output.note(f"the ledger's metrics are served at http://{address}/metrics")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
