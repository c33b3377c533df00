"""Which statements of a page read more than they are bounded to, by the database's own plan.

A statement may read one thing (an operation, its attempts, its decisions, an import), or at most so many rows as its
LIMIT says. A LIMIT bounds nothing if the rows below it are filtered or sorted first: then a database may read all of a
table.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Engine, event

from worker.ledger import Ledger

GROWING = {f"b2copy_{name}" for name in ("operations", "attempts", "audit", "approvals", "minutes", "batches")}
MANY = 50_000  # rows; what a planner takes for fewer may be cheaper to read and sort than to read in order
_ONE_THING = re.compile(r"\b(id|key|parent|operation_id|subject|batch)\)?(::text)? = ")
_READS_ALL = {"Sort", "Aggregate", "Hash", "Unique", "WindowAgg", "SetOp"}


class Sent(NamedTuple):
    """A statement as it went to the database."""

    sql: str
    parameters: Any


@contextmanager
def statements_of(engine: Engine) -> Iterator[dict[str, Sent]]:
    """Note the queries that are sent, by their text."""
    sent: dict[str, Sent] = {}

    def note(_connection: object, _cursor: object, sql: str, parameters: Any, *_: object) -> None:
        if sql.startswith(("SELECT", "WITH")):
            sent.setdefault(sql, Sent(sql, parameters))

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def unbounded_parts(ledger: Ledger, sent: Sent, is_large: bool = False) -> list[str]:
    """Return the parts of a statement's plan that may read all of a table.

    In a small ledger PostgreSQL prefers to read whole tables: there it is told to use indices. In a large one it
    decides, and a part that it estimates at fewer than `MANY` rows may be read as a whole.
    """
    with ledger.reading() as connection:
        if connection.dialect.name == "sqlite":
            return _of_sqlite(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sent.sql}", sent.parameters).all())
        if not is_large:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
        plan = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sent.sql}", sent.parameters).scalar_one()
    parts = _of_postgresql(plan[0]["Plan"], limited=False)
    return [text for text, rows in parts if not is_large or rows > MANY or text.startswith("Seq Scan of b2copy_oper")]


def _of_sqlite(rows: Any) -> list[str]:
    """SQLite's plan names no LIMIT. What it shows is a sort, which reads all that its siblings read.

    A sort of the last terms alone goes on as it reads.
    """
    sorted_within = {parent for _, parent, _, detail in rows if re.match("USE TEMP B-TREE FOR (?!LAST|RIGHT)", detail)}
    found = []
    for _, parent, _, detail in rows:
        read = re.match(r"(SCAN|SEARCH) (\w+)(.*)", detail)
        if read is None or read[2] not in GROWING:
            continue
        one_thing = read[1] == "SEARCH" and re.search(r"\((rowid|key|parent|operation_id|subject)=\?", read[3])
        if parent in sorted_within and not one_thing:
            found.append(detail)
    return found


def _of_postgresql(node: dict[str, Any], limited: bool) -> Iterator[tuple[str, int]]:
    """Yield each part that no LIMIT bounds, and how many rows the planner expects of it."""
    kind, table, where = node["Node Type"], node.get("Relation Name"), node.get("Index Cond", "")
    if kind == "Limit":
        limited = True
    elif kind in _READS_ALL or "Join" in kind or kind == "Nested Loop" or "Filter" in node:
        limited = False
    is_one_thing = _ONE_THING.search(where) or (kind == "Bitmap Heap Scan" and _ONE_THING.search(node["Recheck Cond"]))
    if table in GROWING and not is_one_thing and (not limited or kind == "Bitmap Heap Scan"):
        yield f"{kind} of {table} {node.get('Index Name', '')} {where} {node.get('Filter', '')}", node["Plan Rows"]
    for child in node.get("Plans", ()):
        inherits = child.get("Parent Relationship") not in {"InitPlan", "SubPlan"}
        yield from _of_postgresql(child, limited and inherits)
