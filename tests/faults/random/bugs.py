"""Planted bugs, each of which breaks one promise on purpose: they show that the checks of a random run can fail.

Loaded into a worker with `celery worker --include`; the variable `PLANTED_BUG` names the bug. One chance in five is
taken, so that a check has to find single operations.
"""

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import bindparam, exists, false, select, update

from worker.b2copy import client as client_module
from worker.errors import Rejected, Unavailable
from worker.flow import lane as lane_module
from worker.ledger import ordering as ordering_module
from worker.ledger.schema import c, due_now, in_list, is_in_line, operations, queue_position, sql_literal
from worker.messages import inbox as inbox_module
from worker.operation import Recorded, State, WaitReason

MODULE = __name__
client: Any = client_module.B2Copy  # Any, because what is replaced here is no public name
lane: Any = lane_module
inbox: Any = inbox_module
ordering: Any = ordering_module
_chances = itertools.count(1)


def _is_taken() -> bool:
    return next(_chances) % 5 == 0


def carry_out_twice() -> None:
    """Send a request a second time after its answer."""
    send = client.send

    async def send_twice(self: Any, route: Any, body: Mapping[str, Any], *more: Any) -> Any:
        answer = await send(self, route, body, *more)
        return await send(self, route, body, *more) if _is_taken() else answer

    client.send = send_twice


def carry_out_for_another_login() -> None:
    """Send a fee run a second time, for another login."""
    send = client.send

    async def send_for_both(self: Any, route: Any, body: Mapping[str, Any], *more: Any) -> Any:
        if "account_login" in body and _is_taken():
            await send(self, route, {**body, "account_login": "another"}, *more)
        return await send(self, route, body, *more)

    client.send = send_for_both


def fail_in_an_outage() -> None:
    """Take "unavailable" for a refusal of the operation."""
    send = client.send

    async def send_once(self: Any, route: Any, body: Mapping[str, Any], *more: Any) -> Any:
        try:
            return await send(self, route, body, *more)
        except Unavailable as error:
            raise Rejected(*error.args) from None

    client.send = send_once


def answer_another_call() -> None:
    """Take the answer to the call before for the answer to this call."""
    send = client.send
    answers: dict[str, Any] = {}

    async def send_and_mix_up(self: Any, route: Any, body: Mapping[str, Any], *more: Any) -> Any:
        answer = await send(self, route, body, *more)
        before = answers.get(route.path, answer)
        answers[route.path] = answer
        return before if "name" in body and _is_taken() else answer

    client.send = send_and_mix_up


def overtake() -> None:
    """Let the last of a line start first."""
    other, position = ordering._ahead.c, ordering._ahead_position
    later = exists().where(other.entity == c.entity, is_in_line(other), position > queue_position)
    reason = sql_literal(WaitReason.BEHIND_ENTITY).label("wait_reason")
    blocked = select(c.id, reason, false().label("by_pause")).where(in_list(c.id, "ids"), c.entity.is_not(None))
    ordering._BLOCKED = blocked.where(later | ordering._running)
    line = select(other.id).where(other.entity == bindparam("line"), is_in_line(other), other.state != "running")
    last = line.order_by(position.desc()).limit(1).scalar_subquery()
    ordering._RELEASE_NEXT = update(operations).where(c.id == last).values(due_at=due_now(ordering._now))


def store_no_evidence() -> None:
    """Settle operations without their attempts."""
    settle = lane.settle_and_claim

    def settle_without(ledger: Any, transitions: Sequence[Any], *more: Any) -> Any:
        return settle(ledger, [each._replace(attempt=None) if _is_taken() else each for each in transitions], *more)

    lane.settle_and_claim = settle_without


def lose_messages() -> None:
    """Acknowledge messages that are not recorded."""
    record = inbox.record

    def record_most(ledger: Any, news: Sequence[Any], *more: Any) -> Any:
        if _is_taken():
            return [Recorded(0, new.key, State.QUEUED, created=True) for new in news]
        return record(ledger, news, *more)

    inbox.record = record_most


BUGS: dict[str, tuple[Callable[[], None], str]] = {
    "carried out twice": (carry_out_twice, "was carried out 2 times"),
    "carried out for another login": (carry_out_for_another_login, "was carried out as another/"),
    "failed in an outage": (fail_in_an_outage, "is failed rejected"),
    "answer to another call": (answer_another_call, "has the result"),
    "overtaken": (overtake, "was carried out before"),
    "no evidence": (store_no_evidence, "without any evidence"),
    "messages lost": (lose_messages, "messages are lost"),
}
"""What plants each bug, and what the check that finds it says."""

if bug := os.environ.get("PLANTED_BUG"):
    BUGS[bug][0]()
