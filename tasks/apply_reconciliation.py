"""What is done about the differences that a reconciliation has found: `plan` says it, `apply` does it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection

from tasks import enqueue
from tasks.accounts import ACCOUNTS, client_id_of
from worker.errors import BadPayload
from worker.instances import ledger
from worker.ledger import Identity, find_many, store_identities
from worker.ledger.identities import OPENING, RECONCILED, counts_as_closed
from worker.ledger.queries import find_newest_numbered
from worker.ledger.reconciliation import (
    Difference,
    Run,
    audit_applied,
    current_run,
    differences,
    expected_accounts,
    forget_differences,
)
from worker.operation import FINAL, Operation, State


class RunGone(Exception):
    """Another reconciliation has begun, so the differences of this one are not known any more."""


MISSING_ONE_IN, MISSING_FEW = 100, 10
"""`apply` asks for confirmation if more than `MISSING_FEW` accounts are missing at B2COPY, and more than one in
`MISSING_ONE_IN` of those expected."""

LEARN, OPEN_AGAIN, LEAVE = "learn it", "open it again", "a person decides"
"""What `apply` does about a difference."""


@dataclass
class Applied:
    """What was done about the differences: logins learned, operations recorded, and how many are left to a person."""

    learned: int = 0
    enqueued: list[str] = field(default_factory=list)
    left: int = 0


class Planned(NamedTuple):
    """A difference, what `apply` does about it, and the payload of the operation that opens its account again."""

    difference: Difference
    action: str
    payload: dict[str, Any] | None = None


def plan(run: Run, page: Sequence[Difference]) -> list[Planned]:
    """Return what can be done about these differences.

    Missing here: the identity map learns it. Missing there: the account is opened once more, if the earlier opening in
    the ledger has succeeded and has what that needs, and so has the newest operation that opened it again. Different,
    closed here or unclear: a person must decide which side is right.
    """
    openings = find_many(ledger(), [_opening(one) for one in page if one.difference == "missing_there"])
    again = find_newest_numbered(ledger(), [f"{opening}#" for opening in openings])
    planned = []
    for one in page:
        if one.difference == "missing_here":
            planned.append(Planned(one, LEARN))
        elif (
            payload := _payload_to_reopen(run, openings.get(_opening(one)), again.get(f"{_opening(one)}#"))
        ) is not None:
            planned.append(Planned(one, OPEN_AGAIN, payload))
        else:
            planned.append(Planned(one, LEAVE))
    return planned


def _payload_to_reopen(run: Run, earlier: Operation | None, newest: Operation | None) -> dict[str, Any] | None:
    """Return the payload that opens an account once more; None if this opening has not opened it, or lacks the client.

    `newest` is what opened the account again the last time. A person who cancelled an opening did not want the account,
    and an opening that failed would fail again. If nobody knows what it did, another key would hide that.
    """
    if earlier is None or earlier.state != State.SUCCEEDED:
        return None
    if newest is not None and newest.state != State.SUCCEEDED:
        is_of_run = newest.key == f"{earlier.key}#{run.name}"  # `apply` was interrupted and is repeated
        if newest.state in FINAL or not is_of_run:
            return None
    try:
        client_id = client_id_of(ACCOUNTS.checked(earlier.payload))
    except BadPayload:  # recorded by another version
        return None
    if client_id is None:
        return None
    return {**earlier.payload, "registration": None, "client_id": client_id, "reopens": run.name}


def unusually_many(missing_there: int) -> bool:
    """Return whether so many accounts are missing there that B2COPY or our access to it may be at fault."""
    return missing_there > max(MISSING_FEW, expected_accounts(ledger()) / MISSING_ONE_IN)


def apply(run: Run, by: str, why: str) -> Applied:
    """Do what can be done about the differences of a finished run. A second time does what is left.

    Openings go to lane bulk. They look at B2COPY first, so nothing is opened twice. Raises `RunGone` if another run
    begins meanwhile: what was done until then stays.
    """
    audit_applied(ledger(), run, by, why)
    applied, after = Applied(), ("", "")
    while page := _page(run, after):
        after = page[-1].platform, page[-1].login
        planned = plan(run, page)
        learned = [one.difference for one in planned if one.action == LEARN]
        store_identities(ledger(), [_identity(one, run) for one in learned])
        opened = [one.difference for one in planned if one.payload is not None and _is_recorded(one, by)]
        forget_differences(ledger(), run, [*learned, *opened])
        applied.learned += len(learned)
        applied.enqueued += [f"{_opening(one)}#{run.name}" for one in opened]
        applied.left += len(page) - len(learned) - len(opened)
    return applied


def _page(run: Run, after: tuple[str, str]) -> list[Difference]:
    page = differences(ledger(), run, after)
    now = current_run(ledger())
    if now is None or now.started_at != run.started_at:
        raise RunGone
    return page


def _is_recorded(one: Planned, by: str) -> bool:
    """Record the operation that opens an account again.

    False if the ledger has another one of its key, or if a person has closed the account since the plan was made.
    """

    def work(connection: Connection) -> bool:
        if counts_as_closed(connection, one.difference.platform, one.difference.login):
            return False
        enqueue.many(ACCOUNTS.name, [one.payload or {}], lane="bulk", by=by, connection=connection)
        return True

    try:
        return ledger().write(work)
    except BadPayload:
        return False


def _identity(one: Difference, run: Run) -> Identity:
    there = {name: value for name, (_, value) in one.fields.items()}
    return Identity(
        one.platform,
        one.login,
        client_id=there.get("client_id"),
        account_id=there.get("account_id"),
        learned_from=RECONCILED,
        learned_at=run.started_at,  # what was learned since the run began is newer
    )


def _opening(one: Difference) -> str:
    return f"{OPENING}{one.platform}/{one.login}"
