"""Batches: operations that were recorded together, an import for instance. A person pauses, resumes or cancels one.

    pause     no operation of it is started until it is resumed
    resume    what waits for it is due again; the time of the pause does not count
    cancel    what was never sent is cancelled, and cannot be resumed

After a restore a cancelled import leaves as unresolved what this ledger never sent: it may have been done since the
backup, and a CRM that reads "cancelled" would request it again.

All three are about operations of which nothing was ever sent. What was sent is finished: B2COPY goes on with it anyway.
What had failed unsent and is replayed or corrected after its batch was cancelled belongs to no batch from then on, so
that the newer decision counts.

A decision is one row, so it takes effect at once: a claim leaves held operations alone (`is_held`). Then `sweep` moves
the operations, some thousands in a transaction: a paused one is put aside, so that no claim reads it again. Its
`due_at` is then the instant at which it was put aside plus `HELD_MS`. A process that dies in between does no harm,
because dispatch sweeps, too. A held operation that becomes due otherwise is put aside by the claim that meets it. That
claim locks the batch first, so on PostgreSQL a resume waits for it and then finds what it has put aside.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Connection,
    FromClause,
    bindparam,
    exists,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    tuple_,
    union_all,
    update,
)

from worker.errors import NotAllowed
from worker.ledger.audit import record_audit
from worker.ledger.database import DATABASE_UNAVAILABLE_ERRORS, Ledger, no_approval
from worker.ledger.on_operation_end import Ended, finish_ended
from worker.ledger.ordering import release_line
from worker.ledger.pauses import RESUME, stood_still_ms
from worker.ledger.schema import (
    HELD_MS,
    allowed_from,
    batches,
    c,
    due_now,
    in_list,
    insert_into,
    is_aside,
    is_in_line,
    now_ms,
    operations,
    sql_literal,
)
from worker.operation import FailureReason, Operation, State, WaitReason

log = logging.getLogger(__name__)

PAUSED, CANCELLED = "paused", "cancelled"
BATCH = "batch:"
"""Prefix of a batch's `subject` in the audit and in proposals."""

PAGE = 20  # batches on one page: their operations are counted
CHUNK = 2_000  # operations that one transaction of a sweep moves
CANCEL_CHUNK = 500  # fewer, because each end has consequences
RATE_MS = 60_000  # ms; the rate of a batch is what ended within this time
RATE_LIMIT = 20_000  # ends that are looked at for it
ANOTHER_NAME = "give this import another name with --batch; rows that are recorded already are not recorded again"

b = batches.c


class Batch(NamedTuple):
    """A batch. `rows` is how many the file has; None if it is no import. Instants are ms since the epoch.

    `decision` is `paused`, `cancelled` or None; `decided_at`, `decided_by` and `note` are those of the last decision.
    `swept_to`: operations with larger ids do not obey the decision yet; None: all do.
    """

    id: str
    kind: str
    lane: str
    source: str | None
    rows: int | None
    requested_by: str
    requested_at: int
    decision: str | None
    decided_at: int | None
    decided_by: str | None
    note: str | None
    swept_to: int | None

    @property
    def subject(self) -> str:
        """The `subject` of audit entries and proposals about this batch."""
        return BATCH + self.id

    @property
    def seen(self) -> str:
        """How a person's decision names the batch as that person saw it."""
        return f"{self.decision or 'not decided'} since {self.decided_at or self.requested_at}"


class BatchCounts(NamedTuple):
    """How many operations of a batch are in each state, and how many ended within the last minute."""

    states: Mapping[State, int]
    ended_last_minute: int

    @property
    def recorded(self) -> int:
        return sum(self.states.values())

    @property
    def open(self) -> int:
        return sum(self.states.get(state, 0) for state in (State.QUEUED, State.RUNNING, State.WAITING))


_id: BindParameter[str] = bindparam("batch")
_COLUMNS = [b[name] for name in Batch._fields]
_FIND = select(*_COLUMNS).where(b.id == _id)
_LOCK = _FIND.with_for_update()
_FIRST = select(c.kind, c.lane, c.requested_by, c.requested_at).where(c.batch == _id).order_by(c.id).limit(1)
_TO_SWEEP = select(b.id).where(b.swept_to.is_not(None)).order_by(b.decided_at)
_SWEPT = update(batches).where(b.id == _id).values(swept_to=bindparam("to"))
_unsent = (c.state.in_([sql_literal(State.QUEUED), sql_literal(State.WAITING)]), ~c.sent)
# The time of the pause of its lane so far is added here. When the lane is resumed, the operation may still be aside.
_HOLD = (
    update(operations)
    .where(in_list(c.id, "ids"), *_unsent, is_in_line())
    .values(
        due_at=now_ms() + HELD_MS, external_wait_ms=c.external_wait_ms + stood_still_ms(),
        deadline_at=c.deadline_at + stood_still_ms(), time_allowed_ms=c.time_allowed_ms + stood_still_ms(),
    )
    .returning(c.entity, now_ms())
)  # fmt: skip
_held_for = now_ms() - (c.due_at - HELD_MS)
_RELEASE = (
    update(operations)
    .where(in_list(c.id, "ids"), is_aside())
    .values(
        due_at=now_ms(), last_wait_ms=0, external_wait_ms=c.external_wait_ms + _held_for,
        deadline_at=c.deadline_at + _held_for, time_allowed_ms=c.time_allowed_ms + _held_for,
    )
)  # fmt: skip
# A parked operation that the pause had not put aside yet: what it waited for may have ended, and passed it over.
_EXAMINE = (
    update(operations)
    .where(
        in_list(c.id, "ids"),
        is_in_line(),
        c.wait_reason.in_([sql_literal(WaitReason.BEHIND_ENTITY), sql_literal(WaitReason.BEHIND_PARENT)]),
    )
    .values(due_at=due_now())
)
_CANCEL = (
    update(operations)
    .where(in_list(c.id, "ids"), allowed_from("cancel"), ~c.sent, ~c.outcome_unknown)
    .values(
        state=sql_literal(State.CANCELLED), wait_reason=null(), due_at=null(), state_since=now_ms(), ended_at=now_ms()
    )
    .returning(c.id, c.key, c.entity, c.state, c.ended_at)
)
_LEAVE_UNRESOLVED = (
    update(operations)
    .where(in_list(c.id, "ids"), allowed_from("leave_unresolved"), ~c.sent, c.outcome_unknown)
    .values(
        state=sql_literal(State.FAILED), failure_reason=sql_literal(FailureReason.UNRESOLVED), wait_reason=null(),
        due_at=null(), state_since=now_ms(), ended_at=now_ms(),
    )
    .returning(c.id, c.key, c.entity, c.state, c.ended_at)
)  # fmt: skip
# In the order of their ids, so that two transactions that move the same operations do not lock each other out.
_LOCK_OPERATIONS = select(c.id).where(in_list(c.id, "ids")).order_by(c.id).with_for_update()
# SKIP LOCKED: who decides about a batch, or sweeps it, may be waiting for the operations that the claim has locked.
_LOCK_DECIDED = (
    select(b.id).where(in_list(b.id, "names"), b.decision.is_not(None)).order_by(b.id).with_for_update(skip_locked=True)
)
# A claim has met operations that were added to a cancelled batch, or came back unsent, after the sweep had passed them.
_SWEEP_AGAIN = (
    update(batches)
    .where(
        in_list(b.id, "names"),
        b.decision == CANCELLED,
        b.swept_to.is_(None) | (b.swept_to >= bindparam("first", type_=BigInteger)),
    )
    .values(swept_to=0)
)
# No claim meets what came back unsent to a cancelled batch while its lane is paused.
_is_forgotten = or_(
    b.decision.is_(None) & exists().where(c.batch == b.id, is_aside()),
    (b.decision == CANCELLED) & exists().where(c.batch == b.id, *_unsent),
)
_SWEEP_FORGOTTEN = update(batches).where(b.swept_to.is_(None), _is_forgotten).values(swept_to=0)
_KINDS_AND_LANES = select(c.kind, c.lane).where(c.batch == _id, *_unsent).distinct()
_CANCELLED_AMONG = select(*_COLUMNS).where(in_list(b.id, "names"), b.decision == CANCELLED)
_is_of_page = in_list(c.batch, "batches")
_COUNT = select(c.batch, c.state, func.count()).where(_is_of_page).group_by(c.batch, c.state)
_recent = (
    select(c.batch).where(c.ended_at >= now_ms() - RATE_MS).order_by(c.ended_at.desc()).limit(RATE_LIMIT).subquery()
)
_COUNT_RECENT = select(_recent.c.batch, func.count()).where(_recent.c.batch.is_not(None)).group_by(_recent.c.batch)
_BEYOND_RECALL = select(func.count()).where(
    c.batch == _id, c.state.in_(map(sql_literal, (State.QUEUED, State.RUNNING, State.WAITING))), c.sent
)


_MAY_HAVE_BEEN_DONE = select(func.count()).where(c.batch == _id, *_unsent, c.outcome_unknown)


def begin_batch(ledger: Ledger, batch: str, *, kind: str, lane: str, source: str, rows: int, by: str) -> Batch:
    """Store that an import begins, or goes on: the same batch again is the one that exists.

    Raises `NotAllowed` if it was begun for another kind, lane or file, holds operations of no file, or is cancelled.
    """

    def work(connection: Connection) -> Batch:
        found = _find(connection, batch)  # not locked: b2copy_enqueue may not
        if found is None:
            values = {"kind": kind, "lane": lane, "source": source, "rows": rows, "requested_by": by}
            begun = insert_into(batches, connection.dialect.name).values(id=batch, requested_at=now_ms(), **values)
            connection.execute(begun.on_conflict_do_nothing())
            found = Batch(*connection.execute(_FIND, {"batch": batch}).one())
        _check_goes_on(found, kind, lane, source, rows)
        return found

    return ledger.write(work)


def check_batch(ledger: Ledger, batch: str, *, kind: str, lane: str, source: str, rows: int) -> Batch | None:
    """Return the batch if this import has begun. Raises `NotAllowed` as `begin_batch` does, and writes nothing."""
    found = find_batch(ledger, batch)
    if found is not None:
        _check_goes_on(found, kind, lane, source, rows)
    return found


def _check_goes_on(found: Batch, kind: str, lane: str, source: str, rows: int) -> None:
    """Raise `NotAllowed` unless this import may record under the name of the batch that was found.

    A name stands for one file: how many of its rows are recorded, and what a pause or a cancellation is about, is
    counted by the name.
    """
    if found.decision == CANCELLED:
        raise NotAllowed(cancelled_text(found))
    if (found.kind, found.lane) != (kind, lane):
        problem = f"is an import of {found.kind} in lane {found.lane}"
    elif found.source is None:
        problem = f"holds operations that {found.requested_by} requested without a file"
    elif (found.source, found.rows) != (source, rows):
        problem = f"is the import of {found.source} (rows: {found.rows:,}), and this file is {source} (rows: {rows:,})"
    else:
        return
    raise NotAllowed(f"{found.id} {problem}: {ANOTHER_NAME}")


def cancelled_text(batch: Batch) -> str:
    """Say that a batch is cancelled, and how to record operations that are wanted nevertheless."""
    return (
        f"import {batch.id} was cancelled by {batch.decided_by}: {batch.note}. Its cancelled operations stay so; to"
        " record what is not recorded yet, give the batch another name (of an import: --batch)"
    )


def find_batch(ledger: Ledger, batch: str) -> Batch | None:
    """Return a batch, or None if nothing has this name."""
    with ledger.reading() as connection:
        return _find(connection, batch)


def cancelled_among(connection: Connection, names: Iterable[str]) -> dict[str, Batch]:
    """Return those of these batches that are cancelled, by name."""
    return {row.id: Batch(*row) for row in connection.execute(_CANCELLED_AMONG, {"names": sorted(names)})}


def cancelled_unsent_among(ledger: Ledger, found: Iterable[Operation]) -> set[str]:
    """Return the keys of those that failed because their batch was cancelled after a restore (`_LEAVE_UNRESOLVED`).

    This ledger has sent nothing of them. Whether they were done between the backup and the restore is not known.
    """
    reason = FailureReason.UNRESOLVED
    unsent = {one.key: one.batch for one in found if one.failure_reason == reason and one.batch and not one.sent}
    if not unsent:
        return set()
    with ledger.reading() as connection:
        cancelled = cancelled_among(connection, set(unsent.values()))
    return {key for key, batch in unsent.items() if batch in cancelled}


def list_batches(ledger: Ledger, before: tuple[int, str] | None = None, limit: int = PAGE) -> list[Batch]:
    """Return batches, the newest first. `before`: only those behind the one with this `requested_at` and `id`."""
    wanted = select(*_COLUMNS).order_by(b.requested_at.desc(), b.id.desc()).limit(limit)
    if before is not None:
        wanted = wanted.where(tuple_(b.requested_at, b.id) < tuple_(*map(literal, before)))
    with ledger.reading() as connection:
        return [Batch(*row) for row in connection.execute(wanted)]


def batch_counts(ledger: Ledger, names: Iterable[str]) -> dict[str, BatchCounts]:
    """Count the operations of these batches by state."""
    states: dict[str, dict[State, int]] = {name: {} for name in names}
    with ledger.reading() as connection:
        for name, state, count in connection.execute(_COUNT, {"batches": list(states)}):
            states[name][State(state)] = count
        recent = {name: count for name, count in connection.execute(_COUNT_RECENT)}  # noqa: C416
    return {name: BatchCounts(counts, recent.get(name, 0)) for name, counts in states.items()}


def pause_batch(ledger: Ledger, batch: str, actor: str, note: str, seen: str | None = None) -> Batch:
    """Start nothing more of a batch. Raises `NotAllowed` if it is paused or cancelled already, or has changed."""
    return ledger.write(lambda connection: decide_within(connection, batch, PAUSED, actor, note, seen))


def resume_batch(ledger: Ledger, batch: str, actor: str, note: str, seen: str | None = None) -> Batch:
    """End the pause of a batch. Raises `NotAllowed` if it is not paused, has changed, or needs a second person."""

    def work(connection: Connection) -> Batch:
        found = _locked(connection, batch)
        if _needs_approval(ledger, connection, found, None):
            raise NotAllowed(f"{found.subject} needs a second person to resume (B2COPY_FOUR_EYES): propose it")
        return decide_within(connection, batch, None, actor, note, seen)

    return ledger.write(work)


def cancel_batch(ledger: Ledger, batch: str, actor: str, note: str, seen: str | None = None) -> Batch:
    """Cancel what was never sent of a batch. How many of its operations continue is known after the sweep.

    Raises `NotAllowed` if it is cancelled already, has changed, or needs a second person.
    """

    def work(connection: Connection) -> Batch:
        found = _locked(connection, batch)
        if _needs_approval(ledger, connection, found, CANCELLED):
            raise NotAllowed(f"{found.subject} needs a second person to cancel (B2COPY_FOUR_EYES): propose it")
        return decide_within(connection, batch, CANCELLED, actor, note, seen)

    return ledger.write(work)


def needs_approval(ledger: Ledger, batch: Batch, decision: str | None) -> bool:
    """Return whether to cancel (`CANCELLED`) or to resume (None) a batch needs a second person."""
    with ledger.reading() as connection:
        return _needs_approval(ledger, connection, batch, decision)


def _needs_approval(ledger: Ledger, connection: Connection, batch: Batch, decision: str | None) -> bool:
    """Ask for each kind and lane of what the decision is about: a batch may hold several."""
    if ledger.needs_approval is no_approval:
        return False
    subjects = _kinds_and_lanes(connection, batch)
    return any(ledger.needs_approval(RESUME if decision is None else kind, lane) for kind, lane in subjects)


def kinds_and_lanes(ledger: Ledger, batch: Batch) -> set[tuple[str, str]]:
    """Return the kind and lane of the batch, and of each operation of it that is open and unsent."""
    with ledger.reading() as connection:
        return _kinds_and_lanes(connection, batch)


def _kinds_and_lanes(connection: Connection, batch: Batch) -> set[tuple[str, str]]:
    found = connection.execute(_KINDS_AND_LANES, {"batch": batch.id})
    return {(batch.kind, batch.lane), *((row.kind, row.lane) for row in found)}


def decide_within(
    connection: Connection, batch: str, decision: str | None, actor: str, note: str, seen: str | None = None
) -> Batch:
    """Decide about a batch within the caller's transaction, and return it. Raises what `check_decidable` raises."""
    found = check_decidable(connection, batch, decision, seen)
    values = {"decision": decision, "decided_by": actor, "note": note, "decided_at": now_ms(), "swept_to": 0}
    connection.execute(update(batches).where(b.id == batch).values(values))
    word = {PAUSED: "pause", CANCELLED: "cancel", None: "resume"}[decision]
    record_audit(connection, f"{word} import", actor, note, found.subject)
    return _locked(connection, batch)


def check_decidable(connection: Connection, batch: str, decision: str | None, seen: str | None) -> Batch:
    """Return the batch, locked. Raises `NotAllowed` if it does not permit the decision, or has changed since `seen`."""
    found = _locked(connection, batch)
    if seen is not None and found.seen != seen:
        raise NotAllowed(f"import {batch} has changed since you looked, it is {found.decision or 'not paused'} now")
    if found.decision == CANCELLED:
        raise NotAllowed(f"import {batch} is cancelled, by {found.decided_by}: {found.note}")
    if found.decision == decision:
        raise NotAllowed(
            f"import {batch} is not paused"
            if decision is None
            else f"import {batch} is paused already, by {found.decided_by}: {found.note}"
        )
    return found


def beyond_recall(ledger: Ledger, batch: str) -> int:
    """Count the open operations of a batch of which something may have been sent.

    On PostgreSQL a claim whose transaction is open is not seen. The sweep waits for it.
    """
    with ledger.reading() as connection:
        return int(connection.execute(_BEYOND_RECALL, {"batch": batch}).scalar_one())


def count_perhaps_done(ledger: Ledger, batch: str) -> int:
    """Count the open operations of a batch that this ledger never sent and that may have been done before a restore."""
    with ledger.reading() as connection:
        return int(connection.execute(_MAY_HAVE_BEEN_DONE, {"batch": batch}).scalar_one())


def put_aside(connection: Connection, held: Mapping[int, str]) -> None:
    """Put held operations (id -> batch) aside that a claim has met, so that the next claim does not read them.

    Those of a batch about which somebody decides at this moment stay as they are.
    """
    names = list(connection.execute(_LOCK_DECIDED, {"names": sorted(set(held.values()))}).scalars())
    if names:
        _hold(connection, sorted(id_ for id_, name in held.items() if name in names))
        connection.execute(_SWEEP_AGAIN, {"names": names, "first": min(held)})


def sweep_forgotten(ledger: Ledger) -> None:
    """Have those batches swept again that hold operations which do not obey their decision, though a sweep has ended.

    What is put aside without a pause comes from a ledger that was restored, or from a fault of ours. What is open and
    unsent of a cancelled batch came back after the sweep.
    """
    ledger.write(lambda connection: connection.execute(_SWEEP_FORGOTTEN))


def sweep(ledger: Ledger, time_s: float, batch: str | None = None) -> bool:
    """Let operations obey the decisions about their batches, for about `time_s` seconds.

    Returns whether all do. With `batch`, only that one is swept. Each batch has a chunk moved in its turn, so that a
    small one never waits for a large one; one whose sweep raises an error is logged and left for the next call. Raises
    SQLAlchemy's errors if the database cannot be used.
    """
    ends = time.monotonic() + time_s
    if batch is None:
        with ledger.reading() as connection:
            names = list(connection.execute(_TO_SWEEP).scalars())
    else:
        names = [batch]
    all_obey = True
    while names:
        left = []
        for name in names:
            try:
                if ledger.write(partial(_sweep_chunk, batch=name)):
                    left.append(name)
            except DATABASE_UNAVAILABLE_ERRORS:
                raise
            except Exception:
                log.exception(
                    "batch %s: not all of its operations are paused, resumed or cancelled yet. The next sweep tries"
                    " again", name,
                )  # fmt: skip
                all_obey = False
        names = left
        if names and time.monotonic() >= ends:
            return False
    return all_obey


def _sweep_chunk(connection: Connection, batch: str) -> bool:
    """Move the next operations of a batch. Returns whether there may be more."""
    found = _find(connection, batch, lock=True)
    if found is None or found.swept_to is None:
        return False
    size = CANCEL_CHUNK if found.decision == CANCELLED else CHUNK
    ids = list(connection.execute(_next_ids(found, size)).scalars())
    if ids:
        connection.execute(_LOCK_OPERATIONS, {"ids": ids})
        _move(connection, found, ids)
        connection.execute(_SWEPT, {"batch": batch, "to": ids[-1]})
        return True
    connection.execute(_SWEPT, {"batch": batch, "to": None})
    return False


def _move(connection: Connection, batch: Batch, ids: list[int]) -> None:
    match batch.decision:
        case "cancelled":
            ended = [row for end in (_CANCEL, _LEAVE_UNRESOLVED) for row in connection.execute(end, {"ids": ids})]
            if ended:
                finals = [Ended(row.id, row.key, row.entity, State(row.state)) for row in sorted(ended)]
                finish_ended(connection, finals, ended[0].ended_at)
        case "paused":
            _hold(connection, ids)
        case _:
            connection.execute(_EXAMINE, {"ids": ids})
            connection.execute(_RELEASE, {"ids": ids})


def _hold(connection: Connection, ids: list[int]) -> None:
    """Put these operations aside, and make the next operation of each entity due: they hold nobody up any more."""
    held = connection.execute(_HOLD, {"ids": ids}).all()
    if held:
        release_line(connection, [entity for entity, _ in held if entity is not None], held[0][1])


def _next_ids(batch: Batch, limit: int) -> Any:
    """Return a query for the next queued and waiting operations never sent, in the order of their ids."""
    sources: list[FromClause] = [
        select(c.id)
        .where(c.batch == batch.id, c.state == sql_literal(state), c.id > batch.swept_to, ~c.sent)
        .order_by(c.id)
        .limit(limit)
        .subquery()
        for state in (State.QUEUED, State.WAITING)
    ]
    ids = union_all(*(select(source.c.id) for source in sources)).subquery()
    return select(ids.c.id).order_by(ids.c.id).limit(limit)


def _find(connection: Connection, batch: str, lock: bool = False) -> Batch | None:
    """Return a batch. One that no import began, as the SQL API may name one, is described by its first operation."""
    row = connection.execute(_LOCK if lock else _FIND, {"batch": batch}).first()
    if row is not None:
        return Batch(*row)
    first = connection.execute(_FIRST, {"batch": batch}).first()
    if first is None:
        return None
    if lock:
        connection.execute(insert(batches).values(id=batch, **first._asdict()))
    values: dict[str, Any] = dict.fromkeys(Batch._fields) | first._asdict() | {"id": batch}
    return Batch(**values)


def _locked(connection: Connection, batch: str) -> Batch:
    found = _find(connection, batch, lock=True)
    if found is None:
        raise NotAllowed(f"{batch}: there is no such import; `b2copy-sync import status` lists them")
    return found
