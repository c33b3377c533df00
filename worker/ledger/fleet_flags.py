"""Flags that the whole fleet sees. Pauses are flags too, see `pauses`.

The audit stores each flag that `raise_flag` raises or `lower_flag` lowers. Tries (`start_try`) leave no entry.
"""

from sqlalchemy import Connection, delete

from worker.ledger.audit import record_audit
from worker.ledger.database import Ledger
from worker.ledger.schema import flags, insert_into, now_ms

TRYING = "trying:"
"""Prefix of the names of the flags that `start_try` raises."""


def raise_flag(ledger: Ledger, name: str, actor: str, note: str) -> bool:
    """Raise a flag that the whole fleet sees. Returns False if it is raised already: its actor and note stay."""
    with ledger.writing() as connection:
        row = insert_into(flags, connection.dialect.name).values(name=name, since=now_ms(), actor=actor, note=note)
        raised = row.on_conflict_do_nothing().returning(flags.c.name)  # SQLAlchemy has no `rowcount` of an INSERT
        is_new = connection.execute(raised).first() is not None
        if is_new:
            record_audit(connection, "raise", actor, note, name)
    return is_new


def lower_flag(ledger: Ledger, name: str, actor: str, note: str) -> bool:
    """Lower a flag. Returns whether it was raised."""
    return ledger.write(lambda connection: lower_flag_within(connection, name, actor, note))


def lower_flag_within(connection: Connection, name: str, actor: str, note: str) -> bool:
    """Lower a flag within the caller's transaction. Returns whether it was raised."""
    lowered = connection.execute(delete(flags).where(flags.c.name == name)).rowcount == 1
    if lowered:
        record_audit(connection, "lower", actor, note, name)
    return lowered


def start_try(ledger: Ledger, name: str, actor: str, note: str, again_after_s: float) -> bool:
    """Raise the flag of a try, before it is made. Returns False if that was raised less than `again_after_s` ago.

    So one process tries, and after a try that nobody ended the next one waits. The audit holds decisions, not tries.
    """
    with ledger.writing() as connection:
        return start_try_within(connection, name, actor, note, again_after_s)


def start_try_within(connection: Connection, name: str, actor: str, note: str, again_after_s: float) -> bool:
    """Raise the flag of a try within the caller's transaction. See `start_try`."""
    row = insert_into(flags, connection.dialect.name).values(name=name, since=now_ms(), actor=actor, note=note)
    again = row.on_conflict_do_update(
        index_elements=["name"],
        set_={each: row.excluded[each] for each in ("since", "actor", "note")},
        # The second condition: the database's clock was set back since the try.
        where=(flags.c.since <= now_ms() - round(again_after_s * 1000)) | (flags.c.since > now_ms()),
    )
    return connection.execute(again.returning(flags.c.name)).first() is not None


def end_try(ledger: Ledger, name: str) -> None:
    """Lower the flag of a try whose answer is known."""
    with ledger.writing() as connection:
        connection.execute(delete(flags).where(flags.c.name == name))
