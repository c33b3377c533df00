"""What follows from an operation's end, in one place and in the transaction that ends it."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from worker.ledger.identities import learn_identities
from worker.ledger.notices import are_notices_wanted, record_notices
from worker.ledger.ordering import release_children, release_line
from worker.operation import State


class Ended(NamedTuple):
    """An operation that has just become final."""

    id: int
    key: str
    entity: str | None
    state: State


def finish_ended(connection: Connection, operations: Sequence[Ended], now: int) -> None:
    """Do what follows from the end of these operations. `now` is ms.

    Store the identities that they name, release the next operation of each entity and the children, and record a notice
    for each if the CRM wants notices.

    Called where an operation becomes final: settle, late answer, cancel, stop asking, resolve, expiry, unusable message
    or row, sweep of a cancelled batch. Not for a notice that a newer one supersedes, because nothing follows from that.
    A child whose parent failed is not released: it waits for the parent's replay until its own deadline.
    """
    if not operations:
        return
    learn_identities(connection, [(one.id, one.key) for one in operations if one.state == State.SUCCEEDED])
    release_line(connection, [one.entity for one in operations if one.entity], now)
    release_children(connection, [one.key for one in operations if one.state == State.SUCCEEDED], now)
    if are_notices_wanted(connection):
        record_notices(connection, [one.id for one in operations], now)
