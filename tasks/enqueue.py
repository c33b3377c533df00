"""The CRM's door: say what should happen at B2COPY, and ask what became of it.

    from tasks import enqueue

    operation = enqueue.fees(account_login="123456", request_id="W1")
    enqueue.status("fees.process:W1").state

It needs only B2COPY_DATABASE_URL and B2COPY_REDIS_URL: a CRM host holds no private key. When a call returns, the
operation is in the ledger and will be done even if Redis is lost the next moment. The same request again returns the
operation that exists; the same id with other data raises `PayloadConflict`.

With the ledger's tables in the CRM's own database, pass the SQLAlchemy connection of your transaction: the operation is
then recorded or rolled back together with your own rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from tasks.fees import FEES
from tasks.generic_call import CALL
from tasks.registry import KINDS
from worker.app import ledger
from worker.errors import BadPayload
from worker.ledger import find, record
from worker.messages.wake_up import wake_soon
from worker.operation import New, Operation, Recorded
from worker.process import me
from worker.queues import LANES
from worker.settings import crm_settings
from worker.watch.logs import guard_our_loggers

BATCH = 5_000  # operations recorded in one transaction by `many`


def fees(
    *, account_login: str, request_id: str, by: str | None = None, connection: Connection | None = None
) -> Recorded:
    """Ask for the fees of a withdrawal to be run before its money leaves.

    `account_login` is the MT login, `request_id` your id of the withdrawal, `by` who asks (for the evidence).
    """
    return _accept(FEES.new({"account_login": account_login, "request_id": request_id}, crm_settings()), by, connection)


def call(
    path: str,
    payload: Mapping[str, Any],
    *,
    key: str,
    entity: str | None = None,
    parent: str | None = None,
    repeatable: bool = False,
    by: str | None = None,
    connection: Connection | None = None,
) -> Recorded:
    """Ask for any other Admin v2 method to be called once, under a key of yours.

    Calls with the same `entity` are made one after the other; one with a `parent` (an operation's key) waits until that
    has succeeded. `repeatable=True` says that the call may be made again when its outcome is unknown; without it such
    a call ends as failed, `unresolved`, for a person to decide.
    """
    fields = {
        "path": path,
        "payload": dict(payload),
        "key": key,
        "entity": entity,
        "parent": parent,
        "repeatable": repeatable,
    }
    return _accept(CALL.new(fields, crm_settings()), by, connection)


def many(
    kind: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    lane: str | None = None,
    by: str | None = None,
    connection: Connection | None = None,
) -> Sequence[Recorded]:
    """Ask for many operations of one kind (`fees.process`, `call`), each row holding the fields of one.

    Every row is checked before the first is recorded: one that can't be taken raises `BadPayload` with its number, and
    nothing is recorded. Then they are recorded in batches; if the process dies between two, the same call again
    completes it.
    `lane` moves them, a backfill to `bulk` for instance.
    """
    if lane is not None and lane not in LANES:
        raise BadPayload(f"lane: {lane!r} is none of {', '.join(LANES)}")
    news = list(_checked(kind, rows, lane))
    recorded: list[Recorded] = []
    for start in range(0, len(news), BATCH):
        batch = news[start : start + BATCH]
        recorded += record(ledger(), batch, by=by or me(), connection=connection)
        if connection is None:
            for name in {new.lane for new in batch}:
                wake_soon(name)
    return recorded


def status(key: str) -> Operation | None:
    """Return an operation as it stands now, by its key (`fees.process:W1`); None if there is none."""
    return find(ledger(), key)


def _accept(new: New, by: str | None, connection: Connection | None) -> Recorded:
    (recorded,) = record(ledger(), [new], by=by or me(), connection=connection)
    if connection is None:  # else it is not committed yet: dispatch wakes it within a second of the commit
        wake_soon(new.lane)
    return recorded


def _checked(kind: str, rows: Iterable[Mapping[str, Any]], lane: str | None) -> Iterable[New]:
    if kind not in KINDS:
        raise BadPayload(f"{kind!r} is not a kind: there are {', '.join(sorted(KINDS))}")
    for number, row in enumerate(rows, start=1):
        try:
            new = KINDS[kind].new(row, crm_settings())
        except BadPayload as error:
            raise BadPayload(f"row {number}: {error}") from None
        yield new if lane is None else replace(new, lane=lane)


guard_our_loggers()  # once all is imported that runs in a CRM's process
