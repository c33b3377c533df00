"""How the ledger stands as a whole: what is due and how late, what waits for what, what has failed."""

from dataclasses import dataclass

from sqlalchemy import func, select, union_all
from sqlalchemy.sql import ColumnElement

from worker.ledger.dispatch import COUNT_LIMIT, due
from worker.ledger.lease import is_paused
from worker.ledger.operation import LANES, Reason, State, Why
from worker.ledger.schema import now_ms, operations, word
from worker.ledger.store import Ledger

_row = operations.c


@dataclass(frozen=True, slots=True)
class Census:
    """Counts stop at `COUNT_LIMIT` each. `late` is how long the longest-due operation of a lane has been due, in s."""

    due: dict[str, int]
    late: dict[str, float]
    waiting: dict[Why, int]
    failed: dict[Reason, int]


def _count(condition: ColumnElement[bool], name: str, value: str) -> ColumnElement[int]:
    limited = select(_row.id).where(condition, _row[name] == word(value)).limit(COUNT_LIMIT).subquery()
    return select(func.count()).select_from(limited).scalar_subquery()


_OLDEST = union_all(
    *(
        select(word(lane).label("lane"), now_ms() - func.min(_row.due_at)).where(
            _row.lane == word(lane), _row.turn == turn, _row.due_at <= now_ms(), ~is_paused(lane)
        )
        for lane in LANES
        for turn in (0, 1)
    )
)
_WAITING = select(*(_count(_row.state == word(State.WAITING), "why", why).label(why) for why in Why))
_FAILED = select(*(_count(_row.state == word(State.FAILED), "reason", reason).label(reason) for reason in Reason))


def census(ledger: Ledger) -> Census:
    """Count what stands in the ledger. Costs no more with what is done."""
    late: dict[str, float] = {}
    with ledger.reading() as connection:
        for lane, ms in connection.execute(_OLDEST):
            late[lane] = max(late.get(lane, 0.0), (ms or 0) / 1000)
        waiting = connection.execute(_WAITING).one()._asdict()
        failed = connection.execute(_FAILED).one()._asdict()
    return Census(
        due=due(ledger),
        late=late,
        waiting={why: waiting[why] for why in Why if waiting[why]},
        failed={reason: failed[reason] for reason in Reason if failed[reason]},
    )
