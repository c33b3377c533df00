"""The rule of four eyes, as the ledger holds it: a person's own environment cannot relax it.

It stands in `b2copy_schema_version`, which only the owner of the tables may write. So on PostgreSQL `migrate` sets it
with the owner's role, and the roles that run commands and the console (deploy/postgres/roles.sql) read it. Of the
ledger's rule and a process's B2COPY_FOUR_EYES the stricter one counts.
"""

from typing import Literal

from sqlalchemy import Connection, select, update

from worker.ledger.audit import record_audit
from worker.ledger.schema import version

Rule = Literal["off", "money", "all"]
RULES: tuple[Rule, ...] = ("off", "money", "all")
"""From the least strict to the strictest."""


def stricter(one: Rule, other: Rule) -> Rule:
    return max(one, other, key=RULES.index)


def rule_of(connection: Connection) -> Rule:
    """Return the ledger's rule."""
    held = connection.execute(select(version.c.four_eyes)).scalar()
    return next((rule for rule in RULES if rule == held), RULES[-1])


def set_rule(connection: Connection, rule: Rule, actor: str, note: str) -> None:
    """Write the rule and an entry of the audit, if it changes. On PostgreSQL this needs the owner's role."""
    before = rule_of(connection)
    if rule != before:
        connection.execute(update(version).values(four_eyes=rule))
        record_audit(connection, "four eyes", actor, note, "four_eyes", {"rule": before}, {"rule": rule})
