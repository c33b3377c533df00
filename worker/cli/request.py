"""Request an operation, and wait for its end with --wait."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.cli import output
from worker.cli.exits import Exit, Stop
from worker.cli.operation_view import STYLES
from worker.cli.options import By, Json, duration, json_or_text, named_texts

if TYPE_CHECKING:
    from worker.kind import Payload
    from worker.operation import Operation, Recorded

_LOOK_EVERY = 0.2  # seconds
_NOBODY = 5.0  # seconds in the queue after which somebody should have taken it

Wait = Annotated[bool, typer.Option("--wait", help="Wait until it has succeeded or failed.")]
Timeout = Annotated[
    float | None,
    typer.Option(parser=duration, metavar="DURATION", help="Wait no longer than this.", show_default="no limit"),
]


def fees(
    account: Annotated[str, typer.Option("--account", metavar="LOGIN", help="The MT login the money leaves.")],
    request_id: Annotated[str, typer.Option("--request-id", metavar="ID", help="The CRM's id of the withdrawal.")],
    by: By,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Have the fees of a withdrawal run at B2COPY before its money leaves.

    The same request id again is the same operation: it is never run twice. --wait ends with 0 when the fees are paid,
    3 when B2COPY or a person ended it otherwise, 4 when it is not finished by --timeout.
    """
    from tasks import enqueue
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    _follow(enqueue.fees(account_login=account, request_id=request_id, by=by), wait, timeout, as_json)


def call(
    path: Annotated[str, typer.Argument(metavar="PATH", help="/api/admin/DOMAIN/VERSION/PACKAGE/SERVICE/METHOD")],
    key: Annotated[str, typer.Option("--key", help="Your name for this call: the same key is done once.")],
    by: By,
    payload: Annotated[
        str, typer.Option(help="JSON, or @FILE, or - for standard input. A shell's history keeps what you type.")
    ] = "{}",
    entity: Annotated[str | None, typer.Option(help="Calls of one entity go one after the other.")] = None,
    parent: Annotated[str | None, typer.Option(help="The key of an operation that must have succeeded.")] = None,
    repeatable: Annotated[
        bool, typer.Option("--repeatable", help="Calling it twice does no harm, should an answer be lost.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Have any other method of B2COPY's Admin v2 API called, once.

    If its outcome stays unknown (an answer lost, a worker killed) it ends as failed, unresolved, for a person to find
    out, unless it is --repeatable.
    """
    from tasks import enqueue
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    fields = _payload(payload)
    recorded = enqueue.call(path, fields, key=key, entity=entity, parent=parent, repeatable=repeatable, by=by)
    _follow(recorded, wait, timeout, as_json)


def request(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="The kind, e.g. fees.process.")],
    by: By,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE", help="The payload's fields. JSON; what is not JSON is a text."),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Request an operation of any kind.

    The fields are the kind's: `b2copy-sync request fees.process account_login=101 request_id=W1`. A field that holds a
    text takes the value as it stands, also if it looks like a number. The same id again is the same operation.
    """
    from tasks import enqueue
    from tasks.registry import KINDS
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(sorted(KINDS))}", param_hint="KIND")
    fields = _fields(KINDS[kind].payload, named_texts(values or [], "NAME=VALUE"))
    KINDS[kind].checked(fields)  # `many` would name a row
    _follow(enqueue.many(kind, [fields], by=by)[0], wait, timeout, as_json)


def _fields(payload: "type[Payload]", texts: dict[str, str]) -> dict[str, Any]:
    """Return the values that these texts stand for, as the payload's fields need them."""
    schemas = payload.model_json_schema()["properties"]
    takes_text = {
        name
        for name, schema in schemas.items()
        if "string" in {one.get("type") for one in (schema, *schema.get("anyOf", ()))}
    }
    return {name: text if name in takes_text else json_or_text(text) for name, text in texts.items()}


def _payload(text: str) -> dict[str, Any]:
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        text = Path(text[1:]).read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--payload") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("must be a JSON object", param_hint="--payload")
    return value


def _follow(recorded: "Recorded", wait: bool, timeout: float | None, as_json: bool) -> None:
    """Print how an accepted operation stands; with `wait`, once it has ended. Exits accordingly."""
    from tasks.registry import KINDS
    from worker.app import ledger
    from worker.ledger import find
    from worker.operation import FINAL
    from worker.report.operation import report_on, summary

    if not (as_json or wait):
        output.line(f"{recorded.key} is {'accepted' if recorded.created else 'known already'}")
    operation = find(ledger(), recorded.key)
    if wait:
        try:
            operation = _ended(recorded.key, timeout)
        except KeyboardInterrupt:
            raise Stop(Exit.WAITING, f"the operation continues: b2copy-sync status {recorded.key}") from None
    if operation is None:
        raise Stop(Exit.NOT_FOUND, f"{recorded.key} has been purged")
    report = report_on(ledger(), operation, KINDS)
    if as_json:
        output.document({**summary(report), "created": recorded.created})
    elif wait or not recorded.created:
        message = f": {report.server_message}" if report.server_message and operation.state != "succeeded" else ""
        output.line(f"{operation.key} {report.standing}{message}", style=STYLES.get(operation.state, ""))
        if report.remedy:
            output.note(report.remedy)
    if operation.state in FINAL and operation.state != "succeeded":
        raise typer.Exit(Exit.NOT_DONE)
    if wait and operation.state not in FINAL:
        raise typer.Exit(Exit.WAITING)


def _ended(key: str, timeout: float | None) -> "Operation | None":
    """Wait for an operation to end, and show its progress on stderr."""
    from tasks.registry import KINDS
    from worker.app import ledger
    from worker.ledger import find
    from worker.operation import FINAL
    from worker.report.sentences import standing
    from worker.watch.printable import one_line

    began, shown = time.monotonic(), ""
    with output.err().status("") as spinner:
        while (operation := find(ledger(), key)) is not None and operation.state not in FINAL:
            waited = time.monotonic() - began
            if timeout is not None and waited >= timeout:
                break
            stands = standing(operation, KINDS)
            if operation.state == "queued" and waited > _NOBODY:
                stands += "; is one running? (b2copy-sync doctor)"
            if output.err().is_terminal:
                spinner.update(one_line(f"{key} {stands}"))
            elif (brief := stands.partition(";")[0]) != shown:  # without the countdown: a line for each change
                shown = brief
                output.note(f"{key} {stands}")
            time.sleep(_LOOK_EVERY)
    return operation
