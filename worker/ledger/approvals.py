"""Four eyes: one person proposes a decision, another one approves it, and only then it is made.

A proposal names the action, the subject, and the change mark of the subject that the proposer saw. A proposal is void
if the subject has changed, and after a day. The approval and the decision are one transaction. This file and a CHECK of
the table both enforce the second person, so command line and console obey the same rule.

On the command line the name of a person is not proved: anybody who may write to the database may give any name. The
console proves who a person is.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, insert, select, text, update

from worker.errors import NotAllowed
from worker.ledger import decision_sql, operator_actions
from worker.ledger.audit import record_audit
from worker.ledger.batches import (
    BATCH,
    CANCELLED,
    Batch,
    cancel_batch,
    check_decidable,
    decide_within,
    needs_approval,
    resume_batch,
)
from worker.ledger.database import Ledger
from worker.ledger.insert_operations import encode_payload
from worker.ledger.pauses import RESUME, resume, resume_within
from worker.ledger.queries import active_flags
from worker.ledger.schema import approvals, flags, now_ms
from worker.operation import AuditEntry, Operation, is_replayable

EXPIRES_MS = 24 * 3_600_000
OPEN_LIMIT = 200  # open proposals that are listed
RESUME_BATCH, CANCEL_BATCH = "resume import", "cancel import"
OURSELVES = "b2copy-sync"
"""Who closed a proposal that is void, in the place of a person."""

# What shows nothing although Python calls it printable: https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point
# and the blank of Braille.
_SHOWS_NOTHING = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)

a = approvals.c


class Approval(NamedTuple):
    """A proposal, and what became of it. `decision` is None while it is open. Times are ms since the epoch."""

    id: int
    action: str
    subject: str
    arguments: dict[str, Any]
    seen: str
    proposed_at: int
    proposed_by: str
    note: str
    expires_at: int
    decision: str | None
    decided_at: int | None
    decided_by: str | None
    decided_note: str | None

    @property
    def name(self) -> str:
        """The name of the proposal that people see."""
        return f"A{self.id}"


def _correct(
    connection: Connection, row: Row[Any], actor: str, note: str, payload: Mapping[str, Any], entity: str | None = None
) -> None:
    decision_sql.correct_row(connection, row, encode_payload(row.key, payload), entity, actor, note)


_ON_OPERATIONS: dict[str, Callable[..., None]] = {
    "replay": decision_sql.replay_row,
    "correct": _correct,
    "resolve": decision_sql.resolve_row,
    "cancel": decision_sql.cancel_row,
    "stop_asking": decision_sql.stop_asking_row,
}
_ON_BATCHES = {RESUME_BATCH: None, CANCEL_BATCH: CANCELLED}


def decide_or_propose(
    ledger: Ledger,
    action: str,
    operation: Operation,
    actor: str,
    note: str,
    seen: str | None = None,
    **arguments: Any,
) -> Operation | Approval:
    """Do `replay`, `correct`, `resolve`, `cancel` or `stop_asking`, or propose it if it needs a second person.

    Returns the operation as it is afterwards, or the proposal. `arguments` are those of the function in
    `operator_actions`. Raises `NotAllowed` if the operation does not permit it or has changed since it was `seen`.
    """
    seen = operation.change_mark if seen is None else seen
    if ledger.needs_approval(operation.kind, operation.lane):
        return propose(ledger, action, operation.key, actor, note, seen, arguments)
    match action:
        case "replay":
            if not operator_actions.replay(
                ledger, [operation.key], actor, note, seen={operation.key: seen}, **arguments
            ):
                raise NotAllowed(f"{operation.key} has changed since you looked, or may not be replayed: look again")
        case "correct":
            return operator_actions.correct(ledger, operation.key, actor=actor, note=note, seen=seen, **arguments)
        case "resolve":
            return operator_actions.resolve(ledger, operation.key, actor, note, seen=seen, **arguments)
        case "cancel":
            return operator_actions.cancel(ledger, operation.key, actor, note, seen)
        case "stop_asking":
            return operator_actions.stop_asking(ledger, operation.key, actor, note, seen)
    return operation


def resume_or_propose(ledger: Ledger, lane: str, actor: str, note: str, seen: str | None = None) -> bool | Approval:
    """End a pause and return whether there was one, or propose the end if it needs a second person.

    `seen`: see `resume`.
    """
    if not ledger.needs_approval(RESUME, lane):
        return resume(ledger, lane, actor, note, seen)
    flag = active_flags(ledger).get(f"pause:{lane}")
    if flag is None:
        return False
    return propose(ledger, RESUME, f"pause:{lane}", actor, note, str(flag.at) if seen is None else seen, {})


def resume_batch_or_propose(
    ledger: Ledger, batch: Batch, actor: str, note: str, seen: str | None = None
) -> Batch | Approval:
    """Resume a batch, or propose it if it needs a second person. `seen` is `batch.seen` as the person saw it."""
    if needs_approval(ledger, batch, None):
        return propose(ledger, RESUME_BATCH, batch.subject, actor, note, seen or batch.seen, {})
    return resume_batch(ledger, batch.id, actor, note, seen)


def cancel_batch_or_propose(
    ledger: Ledger, batch: Batch, actor: str, note: str, seen: str | None = None
) -> Batch | Approval:
    """Cancel what was never sent of a batch, or propose it if it needs a second person."""
    if needs_approval(ledger, batch, CANCELLED):
        return propose(ledger, CANCEL_BATCH, batch.subject, actor, note, seen or batch.seen, {})
    return cancel_batch(ledger, batch.id, actor, note, seen)


def propose(
    ledger: Ledger, action: str, subject: str, actor: str, note: str, seen: str, arguments: Mapping[str, Any]
) -> Approval:
    """Propose a decision. A proposal that is open already is returned, not made twice.

    Raises `NotAllowed` if the subject has changed, if it does not permit the action, or if another proposal is open.
    """

    def work(connection: Connection) -> Approval:
        now = connection.execute(select(now_ms())).scalar_one()
        _check_possible(connection, action, subject, seen, arguments)
        encoded = json.dumps(arguments, sort_keys=True)
        is_open = select(approvals).where(a.subject == subject, a.decision.is_(None)).with_for_update()
        for row in connection.execute(is_open):
            if row.seen != seen or row.expires_at <= now:
                _close(connection, row, "expired" if row.expires_at <= now else "changed", OURSELVES, "", now)
            elif (row.action, row.arguments, row.proposed_by) == (action, encoded, actor):
                return _approval_of(row)
            else:
                raise NotAllowed(
                    f"{subject}: A{row.id} is open, {row.proposed_by} proposes {row.action}: decide it first"
                )
        values = {"action": action, "subject": subject, "arguments": encoded, "seen": seen, "proposed_by": actor}
        added = connection.execute(
            insert(approvals)
            .values(**values, note=note, proposed_at=now, expires_at=now + EXPIRES_MS)
            .returning(approvals)
        ).one()
        record_audit(connection, f"propose {action}, A{added.id}", actor, note, subject)
        return _approval_of(added)

    return ledger.write(work)


def approve(ledger: Ledger, number: int, actor: str, note: str) -> Approval:
    """Approve a proposal, and make the decision in the same transaction.

    Returns the proposal with its decision: `approved`, or `changed` or `expired` if the proposal was void. Raises
    `NotAllowed` if the proposal is not open, if `actor` is its proposer, or while a claim holds the operation.
    """

    def work(connection: Connection) -> Approval:
        row, now = _open(connection, number)
        if is_same_person(actor, row.proposed_by):
            raise NotAllowed(f"A{number} is your own proposal: another person must approve it")
        if row.expires_at <= now:
            return _close(connection, row, "expired", OURSELVES, "", now)
        if row.action not in {RESUME, *_ON_BATCHES, *_ON_OPERATIONS}:  # the proposal stays open
            raise NotAllowed(f"A{number}: only a newer version of b2copy-sync knows the action {row.action!r}")
        arguments = json.loads(row.arguments or "{}")
        try:
            _check_possible(connection, row.action, row.subject, row.seen, arguments)
        except decision_sql.CallUnderWay:  # the proposal stays open
            raise
        except NotAllowed as error:
            return _close(connection, row, "changed", OURSELVES, str(error), now)
        closed = _close(connection, row, "approved", actor, note, now)
        reason = f"{row.note} (A{number}, proposed by {row.proposed_by}; approved: {note})"
        if row.action == RESUME:
            resume_within(connection, row.subject.removeprefix("pause:"), actor, reason)
        elif row.action in _ON_BATCHES:
            decide_within(connection, row.subject.removeprefix(BATCH), _ON_BATCHES[row.action], actor, reason)
        else:
            operation = decision_sql.lock(connection, row.subject)
            _ON_OPERATIONS[row.action](connection, operation, actor, reason, **arguments)
        return closed

    return ledger.write(work)


def reject(ledger: Ledger, number: int, actor: str, note: str) -> Approval:
    """Close a proposal as rejected, or as withdrawn by its own proposer. Raises `NotAllowed` if it is not open."""

    def work(connection: Connection) -> Approval:
        row, now = _open(connection, number)
        return _close(
            connection, row, "withdrawn" if is_same_person(actor, row.proposed_by) else "rejected", actor, note, now
        )

    return ledger.write(work)


def close_open(connection: Connection, why: str) -> None:
    """Close all open proposals as `changed` within the caller's transaction: what they are about has changed."""
    now = connection.execute(select(now_ms())).scalar_one()
    is_open = select(approvals).where(a.decision.is_(None)).order_by(a.id).with_for_update()
    for row in connection.execute(is_open).all():
        _close(connection, row, "changed", OURSELVES, why, now)


def number_by_time(connection: Connection) -> None:
    """Let the numbers of proposals go on from the present time (ms since the epoch), within the caller's transaction.

    A ledger from a backup would give a number again that named another proposal before: who was asked to approve that
    one would approve this one. The time is beyond all numbers, also beyond those that another restore has left.
    """
    now = {"now": connection.execute(select(now_ms())).scalar_one()}
    if connection.dialect.name != "sqlite":
        advance = (
            "SELECT setval(s, greatest(nextval(s), :now)) FROM pg_get_serial_sequence('b2copy_approvals', 'id') AS s"
        )
        connection.execute(text(advance), now)
        return
    advance = "UPDATE sqlite_sequence SET seq = max(seq, :now) WHERE name = 'b2copy_approvals'"
    if connection.execute(text(advance), now).rowcount == 0:  # there was no proposal yet
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES ('b2copy_approvals', :now)"), now)


def open_approvals(ledger: Ledger, limit: int = OPEN_LIMIT) -> list[Approval]:
    """Return the open proposals that have not expired, oldest first."""
    is_open = (a.decision.is_(None), a.expires_at > now_ms())
    wanted = select(approvals).where(*is_open).order_by(a.expires_at, a.id).limit(limit)  # all last equally long
    with ledger.reading() as connection:
        return [_approval_of(row) for row in connection.execute(wanted)]


def find_approval(ledger: Ledger, number: int) -> Approval | None:
    """Return a proposal, open or closed. The decision is `expired` if nobody has decided it within its time."""
    with ledger.reading() as connection:
        row = connection.execute(select(approvals, now_ms().label("now")).where(a.id == number)).first()
    if row is None:
        return None
    found = _approval_of(row)
    if found.decision is None and found.expires_at <= row.now:
        return found._replace(decision="expired", decided_by=OURSELVES)
    return found


def decided_approvals(ledger: Ledger, limit: int = 50) -> list[Approval]:
    """Return the newest proposals that are closed, newest first."""
    wanted = select(approvals).where(a.decision.is_not(None)).order_by(a.id.desc()).limit(limit)
    with ledger.reading() as connection:
        return [_approval_of(row) for row in connection.execute(wanted)]


def approvals_of(ledger: Ledger, subject: str) -> list[Approval]:
    """Return the open proposal about an operation, a flag or a batch: a list of one, or an empty list."""
    wanted = select(approvals).where(a.subject == subject, a.decision.is_(None), a.expires_at > now_ms())
    with ledger.reading() as connection:
        return [_approval_of(row) for row in connection.execute(wanted)]


def _check_possible(connection: Connection, action: str, subject: str, seen: str, arguments: Mapping[str, Any]) -> None:
    """Raises `NotAllowed` if the subject is not as it was seen, or if it does not permit the action."""
    if action == RESUME:
        wanted = select(flags.c.since).where(flags.c.name == subject).with_for_update()
        since = connection.execute(wanted).scalar()
        if str(since) != seen:
            raise NotAllowed(f"{subject} has changed since you looked: look again")
        return
    if action in _ON_BATCHES:
        check_decidable(connection, subject.removeprefix(BATCH), _ON_BATCHES[action], seen)
        return
    row = decision_sql.lock(connection, subject, seen)
    is_possible = True
    match action:
        case "replay":
            is_possible = is_replayable(row, arguments.get("not_done", False))
        case "correct":
            decision_sql.check_failed(row, "corrected")
            decision_sql.check_correctable(row)
            encode_payload(subject, arguments["payload"])
        case "resolve":
            decision_sql.check_failed(row, "resolved", may_be_message=not arguments["succeeded"])
        case "cancel":
            is_possible = row.due_at is not None and not row.sent
        case "stop_asking":
            is_possible = row.due_at is not None and row.sent
    if not is_possible:
        raise NotAllowed(f"{subject} is {row.state} and does not permit this")


def _open(connection: Connection, number: int) -> tuple[Row[Any], int]:
    wanted = select(approvals, now_ms().label("now")).where(a.id == number).with_for_update()
    row = connection.execute(wanted).first()
    if row is None:
        raise NotAllowed(no_such_proposal(number))
    if row.decision is not None:
        raise NotAllowed(closed_text(row))
    return row, row.now


def no_such_proposal(number: int) -> str:
    """Say that no proposal has this number."""
    return f"A{number}: there is no such proposal"


def closed_text(closed: Approval | Row[Any]) -> str:
    """Say that a proposal is closed, how and by whom."""
    return f"A{closed.id} is {closed.decision} already, by {closed.decided_by}"


def _close(connection: Connection, row: Row[Any], decision: str, actor: str, note: str, now: int) -> Approval:
    decided = {"decision": decision, "decided_at": now, "decided_by": actor, "decided_note": note}
    connection.execute(update(approvals).where(a.id == bindparam("wanted")), {"wanted": row.id, **decided})
    record_audit(connection, f"{decision} A{row.id}", actor, note or f"its proposal to {row.action}", row.subject)
    return _approval_of(row)._replace(**decided)  # type: ignore[arg-type]


def is_of_proposal(entry: AuditEntry) -> bool:
    """Return whether an entry of the audit tells of a proposal. The decision that is made has an entry of its own."""
    return re.search(r" A[0-9]+$", entry.action) is not None


def is_same_person(one: str, other: str) -> bool:
    """Return whether two names are one person's: they look alike, in whatever case and form of Unicode."""
    return _as_seen(one) == _as_seen(other)


def _as_seen(name: str) -> str:
    normal = unicodedata.normalize("NFKC", name).casefold()
    visible = "".join(char for char in normal if char.isprintable() and not _SHOWS_NOTHING.match(char))
    return " ".join(unicodedata.normalize("NFKC", visible).split())


def _approval_of(row: Row[Any]) -> Approval:
    values = {name: getattr(row, name) for name in Approval._fields}
    values["arguments"] = json.loads(values["arguments"] or "{}")
    return Approval(**values)
