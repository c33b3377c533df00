"""`failed correct`: give a failed operation another payload, because the one it had was wrong."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import output
from worker.cli.approvals import show_proposal
from worker.cli.exit_codes import Exit, Stop
from worker.cli.find_by_name import kind_named, look_up
from worker.cli.open_ledger import existing_ledger
from worker.cli.options import By, Json, Key, Why, check_yes, named_texts
from worker.cli.payload_fields import fields_of

if TYPE_CHECKING:
    from worker.operation import New, Operation
    from worker.settings import CrmSettings


def correct(
    key: Key,
    values: Annotated[
        list[str],
        typer.Argument(metavar="NAME=VALUE", help="The fields that were wrong. A field that is no text takes JSON."),
    ],
    why: Why,
    by: By,
    yes: Annotated[bool, typer.Option("--yes", help="Needed if it moves money.")] = False,
    as_json: Json = False,
) -> None:
    """Correct the payload of a failed operation and queue it again. Both payloads, who and why are stored as evidence.

    For example `b2copy-sync failed correct W1 account_login=123456 --why "mistyped"`. Fields that are not named stay as
    they are. The key stays the same, so a field that is part of the key cannot be corrected. An operation that B2COPY
    may have done cannot be corrected either: resolve it first.
    """
    from tasks.registry import KINDS
    from worker.ledger.approvals import Approval, decide_or_propose
    from worker.messages.wake_up import wake
    from worker.report.operation_report import report_on, summary
    from worker.settings import CrmSettings, load

    settings = load(CrmSettings)
    with existing_ledger(settings) as ledger:
        found = look_up(ledger, key)
        corrected = _corrected(found, values, settings)
        check_yes(yes, found, f"it is done with {json.dumps(corrected.payload, ensure_ascii=False)}")
        decided = decide_or_propose(
            ledger, "correct", found, by, why, payload=dict(corrected.payload), entity=corrected.entity
        )
        if isinstance(decided, Approval):
            show_proposal(decided, as_json)
            return
        operation, report = decided, report_on(ledger, decided, KINDS)
    wake(operation.lane)
    if as_json:
        output.document(summary(report))
    else:
        output.line(f"{operation.key} corrected: {report.standing}")


def _corrected(found: "Operation", values: list[str], settings: "CrmSettings") -> "New":
    """Return the operation as it is with these fields. Raises `BadPayload`, or `Stop` if it would be another one."""
    kind = kind_named(found.kind, "KEY")
    new = kind.new(found.payload | fields_of(kind, named_texts(values, "NAME=VALUE")), settings)
    if new.key != found.key:
        raise Stop(
            Exit.USAGE, f"with these values it would be {new.key}: request that one, and leave {found.key} failed"
        )
    if (new.parent, new.on_unknown) != (found.parent, found.on_unknown):
        raise Stop(Exit.USAGE, f"{found.key}: what it waits for and whether it may be repeated cannot be corrected")
    if new.payload == found.payload:
        raise Stop(Exit.USAGE, f"{found.key} has this payload already: `b2copy-sync failed replay` does it again")
    return new
