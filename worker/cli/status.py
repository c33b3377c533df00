"""What became of an operation."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import output
from worker.cli.exits import Exit, Stop
from worker.cli.open_ledger import existing_ledger
from worker.cli.operation_view import show
from worker.cli.options import Json, Key

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.operation import Operation

_PATIENCE = 10.0  # seconds for a worker to take it and B2COPY to answer
_RECENT = 500  # operations among which a mistyped key is looked for


def status(
    key: Key,
    refresh: Annotated[bool, typer.Option("--refresh", help="Ask B2COPY now, if it waits.")] = False,
    as_json: Json = False,
) -> None:
    """Show an operation with all evidence: every attempt, B2COPY's messages, why it waits, who decided what.

    --json is the export for a regulator or a dispute. The exit code says whether it is known, not how it ended.
    """
    from tasks.registry import ALL_KINDS
    from worker.report.operation import document, report_on

    with existing_ledger() as ledger:
        operation = look_up(ledger, key)
        if refresh:
            operation = _refreshed(ledger, operation)
        report = report_on(ledger, operation, ALL_KINDS)
    if as_json:
        output.document(document(report))
    else:
        show(report)


def look_up(ledger: "Ledger", name: str) -> "Operation":
    """Return the operation called `name`: its key, or its id alone if one kind has it. Raises `Stop`."""
    from worker.ledger import find, find_many
    from worker.operation import MESSAGE_KIND

    if (exact := find(ledger, name)) is not None:
        return exact
    from tasks.registry import KINDS  # imports Celery, which a look-up by key does not need

    found = find_many(ledger, [f"{kind}:{name}" for kind in (*KINDS, MESSAGE_KIND)])
    if len(found) > 1:
        raise Stop(Exit.USAGE, f"{name} is the id of several operations: say which, {' or '.join(sorted(found))}")
    if not found:
        raise Stop(Exit.NOT_FOUND, f"{name}: no such operation{_near(ledger, name)}")
    return found.popitem()[1]


def _near(ledger: "Ledger", name: str) -> str:
    import difflib

    from worker.ledger import search

    recent = [operation.key for operation in search(ledger, limit=_RECENT)]
    ids = {key.partition(":")[2]: key for key in recent}
    near = [ids[one] for one in difflib.get_close_matches(name.rpartition(":")[2], ids, n=3)]
    if near:
        return f"; did you mean {', '.join(near)}?"
    return " was ever recorded here (or it has been purged). Is it the right B2COPY_DATABASE_URL?"


def _refreshed(ledger: "Ledger", operation: "Operation") -> "Operation":
    """Have a waiting operation asked about, and return it as it stands when that is done."""
    from worker.ledger import attempts_of, find, poll_now
    from worker.messages.wake_up import wake
    from worker.operation import FINAL
    from worker.report.text import span

    def tried() -> int:
        return sum(attempt.times for attempt in attempts_of(ledger, operation.id))

    before = tried()
    if not poll_now(ledger, operation.key):
        output.note(f"{operation.key} is {operation.state}, it does not wait: there is nothing to ask")
        return operation
    wake(operation.lane)
    ends = time.monotonic() + _PATIENCE
    while (now := find(ledger, operation.key) or operation).state not in FINAL and tried() == before:
        if time.monotonic() > ends:
            output.note(f"not asked within {span(_PATIENCE)}: is a worker running? (b2copy-sync doctor)")
            break
        time.sleep(0.1)
    return now
