"""Who is who: an MT login on a platform, the CRM's id of the client, and B2COPY's ids.

Operations of the kinds in `LEARNED_FROM` teach it: in the transaction that ends one as succeeded, the
ids in its result are stored beside the platform and login of its payload. A value that is not given leaves the stored
one as it is.

Operations may end in another order than they were requested in, for instance if a person resolves one days later. So
each identity has an instant `learned_at`: when the operation was requested or replayed, or when the identity was
imported. Newer ids replace the stored ones, older ids are only stored where none is. The client's id of an operation
that opens an account never replaces one: the caller gave it, while that of a registration is B2COPY's own answer.

A person can say that an account is closed at B2COPY (`mark_closed`). It then no longer counts as missing there. An
operation that is requested or sent later and opens an account of this login ends that. It may have been requested
before: a row of `b2copy_requests`, or of a transaction that is open, is no operation that `mark_closed` could see.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, ColumnElement, Connection, bindparam, case, func, null, select, union_all, update

from worker.errors import NotAllowed
from worker.ledger.audit import record_audit
from worker.ledger.database import Ledger
from worker.ledger.insert_operations import decode_payload
from worker.ledger.schema import attempts, c, identities, in_list, insert_into, is_in_line, now_ms, operations

OPENING = "accounts.create:"
"""Prefix of the keys of operations that open an account."""

LEARNED_FROM = ("clients.register:", OPENING)
"""Prefixes of the keys of operations whose results hold ids of identities."""

IMPORTED = "import"
"""`learned_from` of an identity that a person imported."""

RECONCILED = "reconcile"
"""`learned_from` of an identity that B2COPY's list of accounts showed."""

BATCH = 1_000  # identities stored in one transaction

_IDS = ("crm_id", "client_id", "account_id", "payment_account")


@dataclass(frozen=True, slots=True)
class Identity:
    """One login. `learned_from` is the key of the operation that returned it, or `import`; of several, the newest.

    It is `reconcile` if B2COPY's list of accounts showed it. What shows that B2COPY has an account is not replaced by
    what does not. `learned_at` is when that operation was requested or replayed, in ms since the epoch. None: now.
    `closed_at` is when a person said that its account is closed at B2COPY; None: not closed. `store_identities` leaves
    it as it is.
    """

    platform: str
    login: str
    crm_id: str | None = None
    client_id: str | None = None
    account_id: str | None = None
    payment_account: str | None = None
    learned_from: str = IMPORTED
    learned_at: int | None = None
    closed_at: int | None = None
    destination: str = "b2copy"

    @property
    def has_account(self) -> bool:
        """Whether B2COPY has opened an account of this login. Its id may be unknown."""
        is_of_account = self.learned_from.startswith(OPENING) or self.learned_from == RECONCILED
        return self.account_id is not None or is_of_account


_FIELDS = [identities.c[name] for name in Identity.__dataclass_fields__]
_BY_LOGIN = select(*_FIELDS).where(identities.c.login == bindparam("wanted")).order_by(identities.c.platform)
_OF_LOGINS = select(*_FIELDS).where(identities.c.destination == "b2copy", in_list(identities.c.login, "logins"))
_BY_CRM_ID = select(*_FIELDS).where(identities.c.crm_id == bindparam("wanted")).order_by(identities.c.learned_at)
# deadline_at and time_allowed_ms are those of the last replay.
_asked_at = func.coalesce(c.deadline_at - c.time_allowed_ms, c.requested_at)
_sent_at = select(func.max(attempts.c.started_at)).where(attempts.c.operation_id == c.id).scalar_subquery()
_ENDED = (
    select(c.key, c.destination, c.payload, c.result, _asked_at, _sent_at)
    .where(in_list(operations.c.id, "ids"))
    .order_by(c.key)
)
_REOPEN = (
    update(identities)
    .where(
        identities.c.destination == bindparam("at"),
        identities.c.platform == bindparam("of_platform"),
        identities.c.login == bindparam("of_login"),
        identities.c.closed_at <= bindparam("begun_at"),
    )
    .values(closed_at=null())
)

# Two queries, so that each has an index. An opening that names a registration has no entity; one that opens an account
# again has a longer key.
_OPENING_NOW = union_all(
    select(c.key, c.state).where(c.key == bindparam("opening"), c.due_at.is_not(None)),
    select(c.key, c.state).where(c.entity == bindparam("of_login"), is_in_line(), c.key.startswith(OPENING)),
)


def shows_account(learned_from: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the SQL condition that what an identity was learned from shows that B2COPY has the account."""
    return learned_from.startswith(OPENING) | (learned_from == RECONCILED)


@cache
def _upsert(dialect: str) -> Any:
    insert = insert_into(identities, dialect)
    values: dict[str, Any] = {name: bindparam(name) for name in Identity.__dataclass_fields__}
    insert = insert.values({**values, "learned_at": func.coalesce(bindparam("learned_at", type_=BigInteger), now_ms())})
    new, known = insert.excluded, identities.c
    is_newer = new.learned_at >= known.learned_at
    replaces = dict.fromkeys(_IDS, is_newer)
    replaces["client_id"] = is_newer & ~new.learned_from.startswith(OPENING)
    merged: dict[str, Any] = {
        name: case((replaced, func.coalesce(new[name], known[name])), else_=func.coalesce(known[name], new[name]))
        for name, replaced in replaces.items()
    }
    merged["learned_at"] = case((is_newer, new.learned_at), else_=known.learned_at)
    # `learned_from` may be the only sign that B2COPY has an account, because some answers do not hold the account's id.
    # So what shows the account is not replaced by what does not.
    is_shown, was_shown = shows_account(new.learned_from), shows_account(known.learned_from)
    is_taken = (is_shown & ~was_shown) | (is_newer & (is_shown | ~was_shown))
    merged["learned_from"] = case((is_taken, new.learned_from), else_=known.learned_from)
    return insert.on_conflict_do_update(index_elements=["destination", "platform", "login"], set_=merged)


def identities_of(ledger: Ledger, *, login: str | None = None, crm_id: str | None = None) -> list[Identity]:
    """Return what is known of a login on every platform, or of a CRM id."""
    query, wanted = (_BY_LOGIN, login) if login is not None else (_BY_CRM_ID, crm_id)
    with ledger.reading() as connection:
        return [Identity(**row._asdict()) for row in connection.execute(query, {"wanted": wanted})]


def identity_of(ledger: Ledger, platform: str, login: str) -> Identity | None:
    """Return what is known of a login on one platform."""
    return next((one for one in identities_of(ledger, login=login) if one.platform == platform), None)


def store_identities(ledger: Ledger, known: Iterable[Identity]) -> int:
    """Store identities that were found out elsewhere, in transactions of `BATCH`. Returns how many."""
    left, stored = iter(known), 0
    while batch := list(islice(left, BATCH)):
        ledger.write(partial(_store, rows=batch))
        stored += len(batch)
    return stored


class Compared(NamedTuple):
    """How many identities the ledger does not have, has with another id, and has as they are."""

    new: int
    changed: int
    known: int


def compare_identities(ledger: Ledger, given: Iterable[Identity]) -> Compared:
    """Say what `store_identities` would do with identities of B2COPY, each of another login.

    An id of None is not given. Changes nothing, and reads in transactions of `BATCH`.
    """
    left, new, changed, known = iter(given), 0, 0, 0
    while batch := list(islice(left, BATCH)):
        with ledger.reading() as connection:
            rows = connection.execute(_OF_LOGINS, {"logins": [one.login for one in batch]})
            stored = {(row.platform, row.login): row for row in rows}
        for one in batch:
            if (found := stored.get((one.platform, one.login))) is None:
                new += 1
            elif any(getattr(one, name) not in (None, getattr(found, name)) for name in _IDS):
                changed += 1
            else:
                known += 1
    return Compared(new, changed, known)


def mark_closed(ledger: Ledger, platform: str, login: str, by: str, why: str, *, is_closed: bool = True) -> bool:
    """Store that a person knows this account to be closed at B2COPY; `is_closed=False` takes it back.

    Returns whether this changed anything: only then the audit stores who said it and why. False also if the identity
    map does not have this login. Raises `NotAllowed`, naming its key, if an operation that opens this account has not
    ended: B2COPY would have the account afterwards.
    """
    is_other = identities.c.closed_at.is_(None) if is_closed else identities.c.closed_at.is_not(None)
    this = (identities.c.destination == "b2copy", identities.c.platform == platform, identities.c.login == login)
    closed_at = now_ms() if is_closed else null()
    with ledger.writing() as connection:
        # First, because it waits for a transaction that holds `counts_as_closed`, which may record an opening.
        changed = connection.execute(update(identities).where(*this, is_other).values(closed_at=closed_at)).rowcount
        if is_closed:
            _check_no_opening(connection, f"{platform}/{login}")
        if changed:
            record_audit(connection, "close" if is_closed else "reopen", by, why, f"identity {platform}/{login}")
    return bool(changed)


def counts_as_closed(connection: Connection, platform: str, login: str) -> bool:
    """Return whether a person has said that this account is closed. Nobody can close it before the transaction ends."""
    closed_at = select(identities.c.closed_at).where(
        identities.c.destination == "b2copy", identities.c.platform == platform, identities.c.login == login
    )
    return connection.execute(closed_at.with_for_update()).scalar() is not None


def _check_no_opening(connection: Connection, of_login: str) -> None:
    opening = connection.execute(_OPENING_NOW, {"of_login": of_login, "opening": OPENING + of_login}).first()
    if opening is not None:
        raise NotAllowed(
            f"{opening.key} opens this account and is {opening.state}: wait until it has ended, or if nothing was sent,"
            f" cancel it (`b2copy-sync failed cancel {opening.key} --why ...`); then close the account"
        )


def learn_identities(connection: Connection, succeeded: Sequence[tuple[int, str]]) -> None:
    """Store what these operations (id, key), which have succeeded in this transaction, have found out."""
    teachers = [id_ for id_, key in succeeded if key.startswith(LEARNED_FROM)]
    if teachers:
        found = connection.execute(_ENDED, {"ids": teachers}).all()
        learned = [(one, row[-1]) for row in found if (one := _learned(*row[:-1])) is not None]
        _store(connection, [one for one, _ in learned])
        _reopen(connection, learned)


def _reopen(connection: Connection, learned: Iterable[tuple[Identity, int | None]]) -> None:
    """Take back that accounts are closed which were opened later: requested, or sent by the last attempt.

    With each identity: when the last attempt of its operation began; None if there was no attempt.
    """
    opened = [
        {
            "at": one.destination,
            "of_platform": one.platform,
            "of_login": one.login,
            "begun_at": max(one.learned_at or 0, sent_at or 0),
        }
        for one, sent_at in learned
        if one.learned_from.startswith(OPENING)
    ]
    if opened:
        connection.execute(_REOPEN, opened)


def _learned(key: str, destination: str, payload: str, result: str | None, asked_at: int) -> Identity | None:
    """Return the identity. A person may have supplied the result, so nothing in it is relied on.

    None if the payload names no login: a person may resolve what was never sent because of that.
    """
    known = decode_payload(payload)
    platform, login = _id(known.get("platform")), _id(known.get("login"))
    if platform is None or login is None:
        return None
    given = known | (json.loads(result) if result else {})
    taught = ("client_id", "account_id") if key.startswith(OPENING) else _IDS
    ids: dict[str, Any] = {name: _id(given.get(name)) for name in taught}
    return Identity(platform, login, **ids, learned_from=key, learned_at=asked_at, destination=destination)


def _id(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) and value != "" else None


def _store(connection: Connection, rows: Sequence[Identity]) -> None:
    # In one order, so that two transactions lock the same rows in the same order.
    ordered = sorted(rows, key=lambda row: (row.destination, row.platform, row.login))
    values = [{name: getattr(row, name) for name in Identity.__dataclass_fields__} for row in ordered]
    if values:
        connection.execute(_upsert(connection.dialect.name), values)
