"""Request operations: `fees` and `call` by their own options, `request` for any kind."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from worker import exact_json
from worker.cli.find_by_name import kind_named
from worker.cli.options import By, Json, Lane, named_texts
from worker.cli.payload_fields import fields_of
from worker.cli.wait_for_end import Timeout, Wait, follow


def fees(
    account: Annotated[str, typer.Option("--account", metavar="LOGIN", help="The MT login the money leaves.")],
    request_id: Annotated[str, typer.Option("--request-id", metavar="ID", help="The CRM's id of the withdrawal.")],
    by: By,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Have B2COPY charge the fees of a withdrawal before its money leaves.

    The same request id again is the same operation: it is never run twice. --wait ends with 0 if the fees are charged,
    3 if it failed or was cancelled: after fee_error, unresolved, exhausted or internal the fees may be charged all the
    same; 4 if it has not ended by --timeout.
    """
    from tasks import enqueue
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    follow(enqueue.fees(account_login=account, request_id=request_id, by=by), wait, timeout, as_json)


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
        bool, typer.Option("--repeatable", help="Calling it twice does no harm: repeat it if an answer is lost.")
    ] = False,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Call any other method of B2COPY's Admin v2 API, once.

    If it stays unknown whether the call was made (an answer is lost, a worker is killed), the operation ends as failed
    (unresolved) and a person finds out, unless it is --repeatable.
    """
    from tasks import enqueue
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    fields = _payload(payload)
    recorded = enqueue.call(path, fields, key=key, entity=entity, parent=parent, repeatable=repeatable, by=by)
    follow(recorded, wait, timeout, as_json)


def request(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="The kind, e.g. fees.process.")],
    by: By,
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME=VALUE", help="The payload's fields. A field that is no text takes JSON."),
    ] = None,
    lane: Annotated[Lane | None, typer.Option(help="Another lane than the kind's own.", show_default=False)] = None,
    wait: Wait = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Request an operation of any kind.

    For example `b2copy-sync request fees.process account_login=101 request_id=W1`. A field that holds a text takes the
    value as it stands, also if it looks like a number. The same id again is the same operation. A wrong KIND lists all
    kinds with their fields.
    """
    from tasks import enqueue
    from worker.settings import CrmSettings, load

    load(CrmSettings)
    chosen = kind_named(kind, "KIND")
    fields = fields_of(chosen, named_texts(values or [], "NAME=VALUE"))
    chosen.checked(fields)  # `many` would say that row 1 is wrong
    follow(enqueue.many(kind, [fields], lane=lane, by=by)[0], wait, timeout, as_json)


def _payload(text: str) -> dict[str, Any]:
    given: str | bytes = text
    if text == "-":
        given = sys.stdin.buffer.read()
    elif text.startswith("@"):
        given = Path(text[1:]).read_bytes()
    try:
        value = exact_json.loads(given)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--payload") from None
    if not isinstance(value, dict):
        raise typer.BadParameter("must be a JSON object", param_hint="--payload")
    return value
