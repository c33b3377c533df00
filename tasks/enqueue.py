"""What a CRM calls: request operations at B2COPY, and ask what became of them.

    from tasks import enqueue

    operation = enqueue.fees(account_login="123456", request_id="W1")
    enqueue.status("fees.process:W1").state

It needs only B2COPY_DATABASE_URL and B2COPY_REDIS_URL: a CRM host holds no private key. When a call returns, the
operation is in the ledger and will be done even if Redis is lost the next moment: nothing that goes wrong with Redis
reaches the caller. The same request again returns the operation that exists; the same id with other data raises
`PayloadConflict`. Ids are printable ASCII without spaces. One that reads like a secret (`password:4711`, `token=x`) is
refused, because logs and pages would blank it.

With the ledger's tables in the CRM's own database, pass your transaction: the operation is then recorded or rolled back
together with your own rows. `connection` is an SQLAlchemy connection or session; `using` is an alias of Django's
DATABASES, and the wake-up is sent by `transaction.on_commit`.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any, overload

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from tasks.accounts import ACCOUNTS
from tasks.clients import CLIENTS
from tasks.fees import FEES
from tasks.generic_call import CALL
from tasks.registry import KINDS
from worker.current_user import current_user
from worker.errors import BadPayload, NotAllowed, comes_from_caller
from worker.instances import ledger
from worker.ledger import cancel as cancel_operation
from worker.ledger import find
from worker.ledger.database import leads_to, no_approval
from worker.ledger.engine import INSUFFICIENT_PRIVILEGE
from worker.ledger.insert_operations import NewRow, plain, row_of
from worker.ledger.record_operations import check_known, record_rows
from worker.operation import FINAL, New, Operation, Recorded, State
from worker.queues import REQUEST_LANES
from worker.settings import crm_settings
from worker.spooled_list import SpooledList
from worker.storable import is_storable
from worker.watch.log_redaction import guard_our_loggers
from worker.watch.outage_log import OutageLog
from worker.watch.tracing import requesting

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    Transaction = Connection | Session

_import_outage = OutageLog(logging.getLogger(__name__), "no wake-up was sent, dispatch will repeat it")

BATCH = 1_000  # operations in one transaction of `many`; with more, Python's garbage collector makes each one slower
WAIT_FIRST_S, WAIT_MAX_S = 0.05, 1.0  # seconds; first and longest pause between two queries of `wait`


def fees(
    *,
    account_login: str,
    request_id: str,
    by: str | None = None,
    connection: "Transaction | None" = None,
    using: str | None = None,
) -> Recorded:
    """Ask for the fees of a withdrawal to be run before its money leaves.

    `account_login` is the MT login, `request_id` your id of the withdrawal, `by` who asks (for the evidence).
    """
    fields = {"account_login": account_login, "request_id": request_id}
    return _accept(FEES.new(fields, crm_settings()), by, connection, using)


def register_client(
    *,
    login: str,
    platform: int = 1,
    crm_id: str | None = None,
    by: str | None = None,
    connection: "Transaction | None" = None,
    using: str | None = None,
) -> Recorded:
    """Ask for the client of an MT login to be registered, which gives it a payment account.

    `platform` is B2COPY's number of the trading platform, `crm_id` your id of the client.
    """
    fields = {"login": login, "platform": platform, "crm_id": crm_id}
    return _accept(CLIENTS.new(fields, crm_settings()), by, connection, using)


def open_account(
    *,
    login: str,
    product_currency_id: int,
    platform: int = 1,
    client_id: int | None = None,
    registration: str | None = None,
    is_master: bool = False,
    name: str | None = None,
    description: str | None = None,
    by: str | None = None,
    connection: "Transaction | None" = None,
    using: str | None = None,
) -> Recorded:
    """Ask for a master or investment account to be opened for an MT login that exists.

    Its client is `client_id` (B2COPY's id), or whom the operation `registration` registers (its key: the account is
    opened after it), or without both, whom the identity map holds for the login. B2COPY's support tells the
    `product_currency_id`.
    """
    fields = {
        "login": login, "platform": platform, "product_currency_id": product_currency_id, "client_id": client_id,
        "registration": registration, "is_master": is_master, "name": name, "description": description,
    }  # fmt: skip
    return _accept(ACCOUNTS.new(fields, crm_settings()), by, connection, using)


def call(
    path: str,
    payload: Mapping[str, Any],
    *,
    key: str,
    entity: str | None = None,
    parent: str | None = None,
    repeatable: bool = False,
    by: str | None = None,
    connection: "Transaction | None" = None,
    using: str | None = None,
) -> Recorded:
    """Ask for any other Admin v2 method to be called once, under a key of yours.

    Calls with the same `entity` are made one after the other; one with a `parent` (an operation's key) waits until that
    has succeeded. `repeatable=True` says that the call may be made again when its outcome is unknown; without it such
    a call ends as failed, `unresolved`, for a person to decide.
    """
    fields = {
        "path": path,
        "payload": dict(payload) if isinstance(payload, Mapping) else payload,  # which the kind then refuses
        "key": key,
        "entity": entity,
        "parent": parent,
        "repeatable": repeatable,
    }
    return _accept(CALL.new(fields, crm_settings()), by, connection, using)


class RecordedMany(Sequence[Recorded]):
    """What `many` did, in the order of the rows: `created` operations are new, `known` ones existed already.

    They are stored in a temporary file and not in memory, so there may be any number.
    """

    def __init__(self) -> None:
        self._values = SpooledList()
        self.created = 0

    @property
    def known(self) -> int:
        return len(self) - self.created

    def add(self, recorded: Iterable[Recorded]) -> None:
        for one in recorded:
            self._values.append((one.id, one.key, str(one.state), one.created))
            self.created += one.created

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Recorded]:
        return map(_recorded_of, self._values.read())

    @overload
    def __getitem__(self, index: int) -> Recorded: ...

    @overload
    def __getitem__(self, index: slice) -> list[Recorded]: ...

    def __getitem__(self, index: int | slice) -> Recorded | list[Recorded]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        return _recorded_of(next(self._values.read(range(len(self))[index])))

    def __repr__(self) -> str:
        return f"<RecordedMany {self.created} created, {self.known} known>"


def many(
    kind: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    lane: str | None = None,
    by: str | None = None,
    batch: str | None = None,
    connection: "Transaction | None" = None,
    using: str | None = None,
) -> RecordedMany:
    """Ask for many operations of one kind (any of `KINDS` in tasks/registry.py), each row holding the fields of one.

    Every row is checked before the first is recorded. An unusable row raises `BadPayload` with its number, and nothing
    is recorded. Then the rows are recorded in batches. If the process dies between two batches, the same call
    again completes the work. A key that exists with other data raises `PayloadConflict`; the batches before it are
    recorded. `rows` may be a generator of any length, because checked rows are stored in a temporary file.

    `lane` moves them, a backfill to `bulk` for instance. `batch` names them together, so that a person can see how far
    they are, pause, resume and cancel them (`b2copy-sync import status`). Raises `NotAllowed` for new keys if a person
    has cancelled that batch.
    """
    if lane is not None and lane not in REQUEST_LANES:
        raise BadPayload(f"lane: {lane!r} is none of {', '.join(REQUEST_LANES)}")
    if batch is not None and not isinstance(batch, str):
        raise BadPayload(f"batch: {batch!r} must be text")
    lane, batch = lane and plain(lane), batch and plain(batch)
    checked = SpooledList()
    for row in _checked(kind, rows, lane, batch, by or current_user()):
        checked.append(tuple(row))
    recorded = RecordedMany()
    for batch_recorded in record_in_batches(map(NewRow._make, checked.read()), connection, using):
        recorded.add(batch_recorded)
    return recorded


def record_in_batches(
    rows: Iterable[NewRow],
    connection: "Transaction | None" = None,
    using: str | None = None,
) -> Iterator[list[Recorded]]:
    """Record checked operations, `BATCH` of them in a transaction. Yields after each transaction what became of them.

    Each batch is recorded only when the one before it has been taken.
    """
    left = iter(rows)
    while batch := list(islice(left, BATCH)):
        yield _record(batch, connection, using)


def status(key: str) -> Operation | None:
    """Return an operation as it stands now, by its key (`fees.process:W1`); None if there is none."""
    return find(ledger(), key)


def wait(key: str, timeout_s: float) -> Operation | None:
    """Wait until an operation has ended, and return it; after `timeout_s` seconds, return it as it stands then.

    This reads the operation by its key, which is one indexed SELECT, after 0.05 s at first and then ever less often, at
    least once a second. In between the thread sleeps. None if there is no such operation within the time: a request of
    the SQL API becomes one within a second. Raises `BadPayload` if `timeout_s` is no number.
    """
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or math.isnan(timeout_s):
        raise BadPayload(f"timeout_s: {timeout_s!r} must be a number of seconds")
    ends = time.monotonic() + timeout_s
    pause_s = WAIT_FIRST_S
    while True:
        found = status(key)
        left_s = ends - time.monotonic()
        if (found is not None and found.state in FINAL) or left_s <= 0:
            return found
        time.sleep(min(pause_s, left_s))
        pause_s = min(WAIT_MAX_S, pause_s * 1.5)


def cancel(key: str, *, why: str, by: str | None = None) -> Operation:
    """Cancel an operation of which nothing was ever sent. `why` and `by` are stored in the audit.

    It is final: a cancelled operation is never sent, and the same id cannot be requested again. To stop the operations
    of an import for a while: `b2copy-sync import pause`.

    Raises `NotAllowed` if the operation has ended, if a request may have reached B2COPY, which then continues the
    operation, or if the database's role may not change operations (b2copy_enqueue may not: on a worker's host
    `b2copy-sync failed cancel` does it). Raises `BadPayload` if there is no such operation. It needs no second person
    (B2COPY_FOUR_EYES): the CRM takes back its own request, of which B2COPY never heard.
    """
    if (found := status(key)) is None:
        raise BadPayload(f"{key!a}: there is no such operation")
    if found.state not in FINAL and found.outcome_unknown and not found.sent:
        raise NotAllowed(
            f"{key}: the ledger came from a backup, so B2COPY may have done it since: a person looks, and cancels it on"
            f' a worker\'s host, with `b2copy-sync failed cancel {key} --why "..."`'
        )
    texts = {"why": why} if by is None else {"why": why, "by": by}
    for name, text in texts.items():
        if not (isinstance(text, str) and text.strip() and is_storable(text)):
            raise BadPayload(f"{name}: {text!r} must be a text that says it: it is stored as evidence")
    try:
        return cancel_operation(replace(ledger(), needs_approval=no_approval), key, by or current_user(), why)
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        raise NotAllowed(
            f"{key}: the role of B2COPY_DATABASE_URL may not change operations: cancel it on a worker's host, with"
            f' `b2copy-sync failed cancel {key} --why "..."`'
        ) from None


def read(what: str, *, timeout_s: float = 10.0, **parameters: Any) -> Any:
    """Read something at B2COPY now, through a worker, for a page of the CRM. It leaves no row in the ledger.

        read("account_detail", login="123456")["aum"]
        read("seamless_url", login="123456").reveal()

    `what` is `accounts` (all parameters optional: login, platform, email, is_master, limit, offset), `account_detail`,
    `account_statistics`, `seamless_url` (login, platform) or `leaderboard` (platform, product). The value is JSON:
    `accounts` and `leaderboard` a list of objects, the others an object; amounts are text, exactly as B2COPY wrote
    them. In an object, but not in those of a list, `raw` is the whole answer of B2COPY. A page has 200 accounts at most
    (`limit`), an answer half a mebibyte. A seamless URL logs its client in, so it comes as an object that no
    log shows; the workers' B2COPY_READS must list it.

    Raises `BadPayload` for wrong arguments, `NoAnswerInTime` if no worker has answered within `timeout_s` seconds
    (60 at most), `Unavailable` if Redis or the ledger does not answer, and what B2COPY refused as another
    `worker.errors.B2CopyError` (`NotFound`, `RateLimited`, ...). A read that nobody waits for any more is not sent. If
    Redis is frozen, or at the first read of a process the ledger, the error may come 5 s after `timeout_s`, because a
    call that has begun is waited for.
    """
    from tasks.reads import SEAMLESS_URL, read_named

    checked = read_named(what).checked(parameters).model_dump(mode="json")
    from worker.messages.ask_read import ask  # it loads Celery and cryptography

    if what == SEAMLESS_URL:
        from worker.b2copy.routes.seamless_login import SeamlessUrl

        return SeamlessUrl(ask(what, checked, timeout_s))
    return ask(what, checked, timeout_s)


def _accept(new: New, by: str | None, connection: "Transaction | None", using: str | None) -> Recorded:
    with requesting(new.kind, new.lane) as trace:
        (recorded,) = _record([row_of(new._replace(trace_id=trace), by or current_user())], connection, using)
    return recorded


def _record(rows: Sequence[NewRow], connection: "Transaction | None", using: str | None) -> list[Recorded]:
    """Record operations in the transaction that the CRM gave, or in one of our own, and have their lanes woken."""
    with _transaction(connection, using) as transaction:
        if connection is not None and transaction is not None and len(rows) > 1:
            # The CRM may catch the error, go on and commit. So nothing is written, or the savepoint undoes it.
            check_known(transaction, rows)
            with _savepoint(transaction):
                recorded = record_rows(ledger(), rows, transaction)
        else:
            recorded = record_rows(ledger(), rows, transaction)
    if connection is None:  # else nobody tells us of the commit: dispatch wakes the lanes within a second of it
        for lane, count in Counter(row.lane for row in rows).items():
            _wake_after_commit(lane, count, using)
    return recorded


def _transaction(connection: "Transaction | None", using: str | None) -> AbstractContextManager[Connection | None]:
    if using is None:
        return nullcontext(_connection_of(connection))
    if connection is not None:
        raise BadPayload("connection, using: give one of the two, they name the same transaction")
    from tasks.django_transaction import django_transaction

    return django_transaction(using, ledger())


def _savepoint(transaction: Connection) -> AbstractContextManager[object]:
    """Return a savepoint of the CRM's transaction: on PostgreSQL another one may record a key after `check_known`.

    On SQLite there is one writer, and `leads_to` has waited until the CRM is it. In autocommit there is no transaction.
    """
    driver = transaction.connection.dbapi_connection
    if transaction.dialect.name != "postgresql" or getattr(driver, "autocommit", False):
        return nullcontext()
    return transaction.begin_nested()


def _connection_of(transaction: "Transaction | None") -> Connection | None:
    """Return the connection of the CRM's transaction. Not `isinstance(..., Session)`: that imports SQLAlchemy's ORM."""
    if transaction is None:
        return None
    if any(base.__module__.startswith("sqlalchemy.ext.asyncio") for base in type(transaction).__mro__):
        raise BadPayload(
            "connection: it is asynchronous: await session.run_sync(lambda own: enqueue.fees(..., connection=own))"
        )
    connection = transaction if isinstance(transaction, Connection) else _connection_of_session(transaction)
    if not leads_to(connection, ledger()):  # each time: a connection may be one of many tenants, or of a test
        raise BadPayload(
            "connection: its database does not hold the ledger of B2COPY_DATABASE_URL, so no worker would find the"
            " operation: give both the same database, or leave `connection` out"
        )
    return connection


def _connection_of_session(session: Any) -> Connection:
    """Return the connection of a session. Raises `BadPayload` for what is none: Django's connection, an engine."""
    if isinstance(session, type) or not (
        hasattr(session, "get_bind") and callable(getattr(session, "connection", None))
    ):
        given = f"{type(session).__module__}.{type(session).__qualname__}"
        raise BadPayload(
            f"connection: {given} is neither a Connection nor a Session of SQLAlchemy: give the one of the CRM's"
            ' transaction, or on Django its alias: using="default"'
        )
    connection: Connection = session.connection()
    return connection


def _wake_after_commit(lane: str, count: int, using: str | None) -> None:
    if using is None:
        _wake(lane, count)
        return
    from tasks.django_transaction import after_commit

    after_commit(using, lambda: _wake(lane, count))


def _wake(lane: str, count: int) -> None:
    """Send wake-ups. Celery is imported here, because it takes a CRM's process as long as everything else.

    The operations are recorded already, so a Celery that cannot be imported is logged, and dispatch wakes the lane.
    """
    try:
        from worker.messages.wake_up import wake_soon, wake_ups_for
    except Exception as error:
        if comes_from_caller(error):
            raise
        _import_outage.failed(error)
        return
    _import_outage.succeeded()
    wake_soon(lane, wake_ups_for(count))


def _checked(
    kind: str, rows: Iterable[Mapping[str, Any]], lane: str | None, batch: str | None, by: str
) -> Iterator[NewRow]:
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadPayload(f"{kind!r} is not a kind: there are {', '.join(sorted(KINDS))}")
    for number, row in enumerate(rows, start=1):
        try:
            new = KINDS[kind].new(row, crm_settings())
            checked = row_of(new, by, lane, batch)
        except BadPayload as error:
            raise BadPayload(f"row {number}: {error}") from None
        yield checked


def _recorded_of(values: tuple[int, str, str, bool]) -> Recorded:
    id_, key, state, created = values
    return Recorded(id_, key, State(state), created)


guard_our_loggers()  # also of what is imported later, in the CRM's process
