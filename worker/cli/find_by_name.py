"""Find the operation that a person names, by its key or by an id alone; and the kind."""

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from worker.cli.exit_codes import Exit, Stop

if TYPE_CHECKING:
    from worker.ledger import Ledger
    from worker.operation import Operation
    from worker.operation_kind import Kind

_RECENT = 500  # newest operations whose keys are compared with a mistyped key


def all_named(ledger: "Ledger", name: str) -> "dict[str, Operation]":
    """Return every operation called `name` by key: the key itself, an id, or a failed message that names the id.

    Also those that have it as request id in their payload, among the newest `WINDOW` operations.
    """
    from tasks.registry import ALL_KINDS
    from worker.ledger import find, find_many, search
    from worker.ledger.operation_lists import Filter, list_operations
    from worker.operation import MESSAGE_KIND, State

    if (exact := find(ledger, name)) is not None:
        return {name: exact}
    found = find_many(ledger, [f"{kind}:{name}" for kind in (*ALL_KINDS, MESSAGE_KIND)])
    found |= {one.key: one for one in list_operations(ledger, Filter(request_id=name)).operations}
    messages = search(ledger, state=State.FAILED, kind=MESSAGE_KIND, limit=_RECENT)
    is_named = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    return found | {one.key: one for one in messages if is_named.search(str(one.payload.get("message", "")))}


def look_up(ledger: "Ledger", name: str) -> "Operation":
    """Return the operation called `name`: its key, or its id alone if one kind has it. Raises `Stop`."""
    from worker.ledger import find, find_many
    from worker.operation import MESSAGE_KIND

    if (exact := find(ledger, name)) is not None:
        return exact
    from tasks.registry import ALL_KINDS  # imports pydantic and every kind, which a look-up by key does not need

    found = find_many(ledger, [f"{kind}:{name}" for kind in (*ALL_KINDS, MESSAGE_KIND)])
    if len(found) > 1:
        raise Stop(Exit.USAGE, f"{name} is the id of several operations: say which, {' or '.join(sorted(found))}")
    if not found:
        raise Stop(Exit.NOT_FOUND, f"{name}: no such operation{_near(ledger, name)}")
    return found.popitem()[1]


def kind_named(name: str, hint: str) -> "Kind[Any]":
    """Return a kind. Raises `typer.BadParameter` that lists all kinds with their fields."""
    from tasks.registry import KINDS

    if name not in KINDS:
        known = "; ".join(f"{kind.name} ({', '.join(kind.payload.model_fields)})" for kind in KINDS.values())
        raise typer.BadParameter(f"{name!r} is not a kind. There are: {known}", param_hint=hint)
    return KINDS[name]


def _near(ledger: "Ledger", name: str) -> str:
    import difflib

    from sqlalchemy.exc import SQLAlchemyError

    from worker.ledger import search
    from worker.ledger.overview import overview
    from worker.report.format_values import span

    recent = [operation.key for operation in search(ledger, limit=_RECENT)]
    ids = {key.partition(":")[2]: key for key in recent}
    near = [ids[one] for one in difflib.get_close_matches(name.rpartition(":")[2], ids, n=3)]
    waiting = ""
    with suppress(SQLAlchemyError):  # a CRM's role may not read all of that
        seen = overview(ledger)
        if seen.requests_age_s is not None:
            waiting = (
                f"; rows of b2copy_requests wait for a worker, the oldest for {span(seen.requests_age_s)}: it may be"
                " one of them. Is a worker running? (b2copy-sync doctor)"
            )
        elif seen.left_request is not None:
            row, reason = seen.left_request
            waiting = f"; row {row} of b2copy_requests waits, and it may be that one: {reason}"
    if near:
        return f"; did you mean {', '.join(near)}?{waiting}"
    if waiting:
        return waiting
    return " was ever recorded here (or it has been purged). Is it the right B2COPY_DATABASE_URL?"
