"""The comparison of B2COPY's accounts with the identity map: how far it is, what B2COPY has, what differs.

    start ──> store_page, ... ──> candidates, decide, ... ──> finished
              reading             comparing

Everything is in the ledger: a process that is killed loses one step at most, and any other process goes on. Each step
is one transaction that adds one to `version`. So if two processes make the same step, one of them writes it, and the
other one gets the run as it is now.

The comparison is made by the database, a part of it at a time, so that the memory does not grow with the accounts.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

from sqlalchemy import (
    Connection,
    String,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    tuple_,
    update,
)

from worker.ledger.audit import record_audit
from worker.ledger.database import Ledger
from worker.ledger.identities import LEARNED_FROM, OPENING, Identity, shows_account
from worker.ledger.schema import accounts_there as there
from worker.ledger.schema import c, in_list, insert_into, is_in_line, now_ms, operations
from worker.ledger.schema import differences as found
from worker.ledger.schema import identities as here
from worker.ledger.schema import reconciliation as runs

DESTINATION = "b2copy"
FIELDS = ("account_id", "client_id")
"""What is compared of an account that both sides know."""

BATCH = 500  # candidates read in one query
STALE_MS = 24 * 3600 * 1000  # ms without a step, after which a run that has not finished begins again

Phase = Literal["reading", "comparing", "finished"]
What = Literal["missing_there", "missing_here", "closed_here", "different", "unclear"]


class AccountThere(NamedTuple):
    """An account as B2COPY lists it. `account_id` is empty if B2COPY gave none.

    `platform` is empty if B2COPY named none and it may be any platform. `login` is empty if B2COPY has none: such an
    account is stored for its place in the list alone.
    """

    platform: str
    login: str
    account_id: str
    client_id: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells it from all other accounts."""
        return (self.platform, self.login, self.account_id)


@dataclass(frozen=True, slots=True)
class Run:
    """A reconciliation. Times are ms since the epoch by the database's clock.

    `position`: how many accounts of B2COPY's list have been read; `anchor` is the last one. `compared_to`: the last
    candidate that was decided. `requests`: requests sent to B2COPY so far.
    """

    started_at: int
    started_by: str
    phase: Phase
    version: int
    position: int
    anchor: AccountThere | None
    compared_to: tuple[str, str, str]
    requests: int
    finished_at: int | None

    @property
    def name(self) -> str:
        """What people and operations call it."""
        return str(self.started_at)


class Candidate(NamedTuple):
    """A login about which the two sides may differ. `side` is where it was found: `here` or `there`."""

    side: str
    platform: str
    login: str
    identity: Identity | None
    accounts: tuple[AccountThere, ...]

    @property
    def place(self) -> tuple[str, str, str]:
        """Its place among the candidates, which are decided in this order."""
        return (self.side, self.platform, self.login)


class Difference(NamedTuple):
    """What differs about one login. `fields`: name -> [value here, value there]; None: that side has none.

    `closed_here`: a person said that the account is closed, and B2COPY lists one.
    Of one that is `unclear`, the field `answer` says why B2COPY's side is not known.
    """

    platform: str
    login: str
    difference: What
    fields: dict[str, list[str | None]]


_NOTHING_DECIDED = ("", "", "")
_HERE, _THERE = "here", "there"
_RUN = select(runs).where(runs.c.destination == DESTINATION)
_STEPPED_AT = select(runs.c.stepped_at).where(runs.c.destination == DESTINATION)
_MS_SINCE_LAST_STEP = select(
    now_ms()
    - func.coalesce(_STEPPED_AT.scalar_subquery(), select(c.requested_at).order_by(c.id).limit(1).scalar_subquery())
)
_ADVANCE = update(runs).where(
    runs.c.destination == DESTINATION,
    runs.c.started_at == bindparam("of_run"),
    runs.c.version == bindparam("seen"),
)

_same = and_(there.c.platform == here.c.platform, there.c.login == here.c.login)
_agrees = and_(
    or_(there.c.account_id == "", there.c.account_id == here.c.account_id),
    or_(there.c.client_id.is_(None), there.c.client_id == here.c.client_id),
)


def _count(*conditions: Any) -> Any:
    return select(func.count()).select_from(there).where(*conditions).correlate(here).scalar_subquery()


# B2COPY must have no account of a client that was registered and has none yet, and none that was closed.
must_be_there = here.c.closed_at.is_(None) & or_(  # in Python: `Identity.has_account`
    here.c.account_id.is_not(None), shows_account(here.c.learned_from)
)
_after = tuple_(bindparam("platform", type_=String), bindparam("login", type_=String))
_IDENTITY_FIELDS = [here.c[name] for name in Identity.__dataclass_fields__]
_CANDIDATES_HERE = (
    select(*_IDENTITY_FIELDS)
    .where(here.c.destination == DESTINATION, tuple_(here.c.platform, here.c.login) > _after)
    .where(
        (_count(_same) != _count(_same, _agrees))
        | (_count(_same) > 1)
        | (must_be_there & (_count(_same) == 0))
        | (here.c.closed_at.is_not(None) & (_count(_same) > 0))
    )
    .order_by(here.c.platform, here.c.login)
    .limit(BATCH)
)
_unknown_here = ~select(here.c.login).where(here.c.destination == DESTINATION, _same).correlate(there).exists()
_CANDIDATES_THERE = (
    select(there.c.platform, there.c.login)
    .where(tuple_(there.c.platform, there.c.login) > _after, _unknown_here, there.c.login != "")
    .group_by(there.c.platform, there.c.login)
    .order_by(there.c.platform, there.c.login)
    .limit(BATCH)
)
_LISTED = select(there.c.login).where(
    there.c.platform == bindparam("platform"),
    there.c.login == bindparam("login"),
    there.c.account_id == bindparam("account_id"),
)
_OF_LOGINS = select(there).where(in_list(there.c.login, "logins"))
_IDENTITIES_OF = select(*_IDENTITY_FIELDS).where(here.c.destination == DESTINATION, in_list(here.c.login, "logins"))
_OPENING_NOW = select(c.key).where(c.due_at.is_not(None), in_list(operations.c.key, "keys"))
_DOING_NOW = select(c.entity).where(is_in_line(), in_list(operations.c.entity, "entities"))
# A person may have closed the identity since the run decided, or taken that back: `apply` must not open it again.
_is_closed = (
    select(here.c.login)
    .where(here.c.destination == DESTINATION, here.c.platform == found.c.platform, here.c.login == found.c.login)
    .where(here.c.closed_at.is_not(None))
    .exists()
)
_stands = case(
    (found.c.difference == "missing_there", ~_is_closed),
    (found.c.difference == "closed_here", _is_closed),
    else_=true(),
)
_OF_OTHER_PLATFORMS = [
    select(here.c.login).where(here.c.destination == DESTINATION, is_other).limit(1)
    for is_other in (here.c.platform < bindparam("first"), here.c.platform > bindparam("first"))
]
# The range is searched in the index over the keys. In most collations it begins after the keys of the first platform,
# because a slash comes before a digit. In all of them digits come before letters.
_KEYS_OF_OTHER_PLATFORMS = (
    select(c.key)
    .where(c.key >= bindparam("from"), c.key < bindparam("until"), c.key.startswith(bindparam("kind")))
    .where(~c.key.startswith(bindparam("of_first")))
    .limit(1)
)
_EXPECTED = select(func.count()).select_from(here).where(here.c.destination == DESTINATION, must_be_there)


def current_run(ledger: Ledger) -> Run | None:
    """Return the reconciliation that is under way, or the last one; None if there was none."""
    with ledger.reading() as connection:
        return _current(connection)


def ms_since_last_step(ledger: Ledger) -> int | None:
    """Return how long ago the last step of a reconciliation was, in ms. A run that finished has made its last one.

    If there was no run, the time since the oldest operation was requested; None if there is no operation either.
    """
    with ledger.reading() as connection:
        found = connection.execute(_MS_SINCE_LAST_STEP).scalar_one()
    return None if found is None else int(found)


def is_due(ledger: Ledger, every_ms: int) -> bool:
    """Return whether there is something to do: a reconciliation run is under way, or none began within `every_ms`."""
    with ledger.reading() as connection:
        return not _rests(connection, every_ms)


def start_run(ledger: Ledger, by: str, every_ms: int | None = None) -> Run:
    """Start a reconciliation, which forgets what the last one has found. One that is under way continues instead.

    Unless its last step is older than `STALE_MS`: what it has read says too little about today. The beginning does not
    count, because with a low rate limit a run takes days and would begin again for ever. With `every_ms`, one that has
    finished and began less than that ago is returned as it is: another process was faster.
    """

    def work(connection: Connection) -> Run:
        run = _current(connection)
        now = connection.execute(select(now_ms())).scalar_one()
        if run is not None:
            if run.phase != "finished" and now - connection.execute(_STEPPED_AT).scalar_one() < STALE_MS:
                return run
            if every_ms is not None and _rests(connection, every_ms):
                return run
            # This row first, because it is the lock: a process that makes a step of the run changes it first, too.
            ended = connection.execute(delete(runs).where(runs.c.started_at == run.started_at))
            if not ended.rowcount:
                return _existing(connection)  # another process was faster
        for table in (there, found):
            connection.execute(delete(table))
        connection.execute(
            insert(runs).values(
                destination=DESTINATION,
                started_at=now,
                started_by=by,
                stepped_at=now,
                phase="reading",
                version=0,
                position=0,
                requests=0,
            )
        )
        return _existing(connection)

    return ledger.write(work)


def expected_accounts(ledger: Ledger) -> int:
    """Return how many accounts the identity map has, which is about as many as B2COPY lists."""
    with ledger.reading() as connection:
        return int(connection.execute(_EXPECTED).scalar_one())


def knows_other_platforms(ledger: Ledger, first: str) -> bool:
    """Return whether the identity map, or an operation that teaches it, names a platform that is not `first`, a digit.

    An operation need not have succeeded: an opening that is unresolved may have opened its account.
    """
    with ledger.reading() as connection:
        if any(connection.execute(query, {"first": first}).first() for query in _OF_OTHER_PLATFORMS):
            return True
        return any(
            connection.execute(
                _KEYS_OF_OTHER_PLATFORMS,
                {"from": f"{kind}{first}0", "until": f"{kind}a", "kind": kind, "of_first": f"{kind}{first}/"},
            ).first()
            for kind in LEARNED_FROM
        )


def platforms_by_id(ledger: Ledger, logins: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return the platforms of the identities of these logins, by login and B2COPY's id of the account."""
    with ledger.reading() as connection:
        known = connection.execute(_IDENTITIES_OF, {"logins": list(logins)})
        return {(one.login, one.account_id): one.platform for one in known if one.account_id is not None}


def store_page(ledger: Ledger, run: Run, accounts: Sequence[AccountThere], position: int, is_end: bool) -> Run:
    """Store what a page of B2COPY's list holds, and where the next one begins. Returns the run as it is then."""

    def store(connection: Connection) -> None:
        if accounts:
            rows = {one.key: one._asdict() for one in accounts}
            connection.execute(
                _upsert(there, connection.dialect.name, "client_id"), [rows[key] for key in sorted(rows)]
            )

    anchor = json.dumps(accounts[-1]) if accounts else run.anchor and json.dumps(run.anchor)
    phase = "comparing" if is_end else "reading"
    return _advance(ledger, run, store, position=position, anchor=anchor, phase=phase, requests=run.requests + 1)


def is_listed(ledger: Ledger, account: AccountThere) -> bool:
    """Return whether some page has shown this account."""
    with ledger.reading() as connection:
        return connection.execute(_LISTED, account._asdict()).first() is not None


def candidates(ledger: Ledger, run: Run) -> list[Candidate]:
    """Return the next candidates, at most `BATCH`; none if all are decided."""
    side, platform, login = run.compared_to
    with ledger.reading() as connection:
        if side != _THERE:
            rows = connection.execute(_CANDIDATES_HERE, {"platform": platform, "login": login}).all()
            if rows:
                known = [Identity(**row._asdict()) for row in rows]
                listed = _listed(connection, [one.login for one in known])
                return [
                    Candidate(_HERE, one.platform, one.login, one, listed.get((one.platform, one.login), ()))
                    for one in known
                ]
            platform = login = ""
        logins = connection.execute(_CANDIDATES_THERE, {"platform": platform, "login": login}).all()
        listed = _listed(connection, [row.login for row in logins])
        return [Candidate(_THERE, *row, None, listed[row.platform, row.login]) for row in logins]


def identities_now(ledger: Ledger, chosen: Sequence[Candidate]) -> dict[tuple[str, str], Identity | None]:
    """Return what the identity map has now of each candidate, by platform and login.

    Those are left out whose account some operation is opening: it will tell.
    """
    logins = [one.login for one in chosen]
    entities = [f"{one.platform}/{one.login}" for one in chosen]
    with ledger.reading() as connection:
        opening = connection.execute(_OPENING_NOW, {"keys": [OPENING + entity for entity in entities]}).scalars()
        under_way = {key.removeprefix(OPENING) for key in opening}
        under_way |= set(connection.execute(_DOING_NOW, {"entities": entities}).scalars())
        known = [Identity(**row._asdict()) for row in connection.execute(_IDENTITIES_OF, {"logins": logins})]
    by_login = {(one.platform, one.login): one for one in known}
    return {
        (one.platform, one.login): by_login.get((one.platform, one.login))
        for one in chosen
        if f"{one.platform}/{one.login}" not in under_way
    }


def decide(ledger: Ledger, run: Run, decided: Sequence[Candidate], differ: Sequence[Difference], requests: int) -> Run:
    """Store which of the candidates, in their order, differ. Returns the run as it is then."""

    def store(connection: Connection) -> None:
        rows = [one._asdict() | {"run": run.started_at, "fields": json.dumps(one.fields)} for one in differ]
        if rows:
            connection.execute(_upsert(found, connection.dialect.name, "run", "difference", "fields"), rows)

    return _advance(ledger, run, store, compared_to=json.dumps(decided[-1].place), requests=run.requests + requests)


def finish_run(ledger: Ledger, run: Run) -> Run:
    """End a reconciliation whose candidates are all decided."""
    return _advance(ledger, run, lambda connection: None, phase="finished", finished_at=now_ms())


def count_differences(ledger: Ledger, run: Run) -> dict[str, int]:
    """Return how many differences of each sort the run has found, without those about which something was done."""
    query = select(found.c.difference, func.count().label("number")).where(found.c.run == run.started_at, _stands)
    with ledger.reading() as connection:
        return {row.difference: row.number for row in connection.execute(query.group_by(found.c.difference))}


def differences(ledger: Ledger, run: Run, after: tuple[str, str] = ("", ""), limit: int = BATCH) -> list[Difference]:
    """Return differences of the run in the order of platform and login, those after `after`."""
    query = select(found).where(found.c.run == run.started_at, _stands)
    query = query.where(tuple_(found.c.platform, found.c.login) > tuple_(*map(_text, after)))
    with ledger.reading() as connection:
        rows = connection.execute(query.order_by(found.c.platform, found.c.login).limit(limit))
        return [Difference(row.platform, row.login, row.difference, json.loads(row.fields)) for row in rows]


def forget_differences(ledger: Ledger, run: Run, settled: Sequence[Difference]) -> None:
    """Remove differences of the run about which something was done."""
    of_run = found.c.run == run.started_at
    with ledger.writing() as connection:
        for one in settled:
            is_this = and_(of_run, found.c.platform == one.platform, found.c.login == one.login)
            connection.execute(delete(found).where(is_this))


def audit_applied(ledger: Ledger, run: Run, by: str, why: str) -> None:
    """Store in the audit who decided to do what can be done about the differences of a run, and why."""
    with ledger.writing() as connection:
        record_audit(connection, "apply", by, why, f"reconciliation {run.name}")


def _text(value: str) -> Any:
    return bindparam(None, value, type_=String)


def _listed(connection: Connection, logins: Sequence[str]) -> dict[tuple[str, str], tuple[AccountThere, ...]]:
    listed: dict[tuple[str, str], tuple[AccountThere, ...]] = {}
    for row in connection.execute(_OF_LOGINS, {"logins": list(logins)}):
        account = AccountThere(*row)
        listed[account.platform, account.login] = (*listed.get((account.platform, account.login), ()), account)
    return listed


@cache
def _upsert(table: Any, dialect: str, *changed: str) -> Any:
    statement = insert_into(table, dialect)
    keys = [column.name for column in table.primary_key]
    return statement.on_conflict_do_update(
        index_elements=keys, set_={name: statement.excluded[name] for name in changed}
    )


def _advance(ledger: Ledger, run: Run, store: Callable[[Connection], None], **values: Any) -> Run:
    """Make one step of the run, if no other process made it. Returns the run as it is then."""

    def work(connection: Connection) -> Run:
        changed = connection.execute(
            _ADVANCE.values(version=runs.c.version + 1, stepped_at=now_ms(), **values),
            {"of_run": run.started_at, "seen": run.version},
        )
        if changed.rowcount:
            store(connection)
        return _existing(connection)

    return ledger.write(work)


def _rests(connection: Connection, every_ms: int) -> bool:
    """Return whether the last run has finished and began less than `every_ms` ago, by the database's clock."""
    # Not one that began in the future: the clock was wrong then.
    is_young = runs.c.started_at.between(now_ms() - every_ms + 1, now_ms())
    return connection.execute(select(runs.c.version).where(runs.c.phase == "finished", is_young)).first() is not None


def _current(connection: Connection) -> Run | None:
    row = connection.execute(_RUN).first()
    if row is None:
        return None
    values = {name: getattr(row, name) for name in Run.__dataclass_fields__}
    values["anchor"] = AccountThere(*json.loads(row.anchor)) if row.anchor else None
    values["compared_to"] = tuple(json.loads(row.compared_to)) if row.compared_to else _NOTHING_DECIDED
    return Run(**values)


def _existing(connection: Connection) -> Run:
    run = _current(connection)
    if run is None:
        raise LookupError("the reconciliation has been removed")
    return run
