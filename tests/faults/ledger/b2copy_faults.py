"""Faults of B2COPY: it is unreachable, refuses us, limits us, loses answers, or answers in an unusual way."""

from collections.abc import Collection
from contextlib import suppress
from functools import partial
from typing import Any

import requests
from sqlalchemy import select

from tests.faults.ledger.crm import PATH
from tests.faults.ledger.system import System
from tests.support import until
from worker.ledger.schema import c

RETRY_AFTER_S = 5.0
IN_FLIGHT_S = 0.15
"""A request that arrives so soon after the 429 was already on its way: another process reads the hold in Redis at most
50 ms later, and a sender that has checked the hold needs some time to send."""


def unreachable(system: System, seconds: float = 60.0) -> None:
    """B2COPY cuts every connection and refuses new ones."""
    with system.fault():
        system.stage.sandbox.control.go_away(seconds)
        system.go_on(seconds)
        until(partial(_is_reachable, system), within=10)


def _is_reachable(system: System) -> bool:
    with suppress(requests.ConnectionError):
        system.stage.sandbox.control.counters()
        return True
    return False


def unavailable_for_a_day(system: System, hours: int = 24) -> None:
    """B2COPY answers 503 for a day, half of it to everything and half to two operations only."""
    unavailable = {"what": "status", "status": 503, "route": "api"}
    with system.fault():
        for hour in range(hours):
            if hour in {0, hours // 2}:
                system.stage.sandbox.control.faults(unavailable | ({} if hour == 0 else {"match": '-77"'}))
            system.pass_an_hour()
            system.go_on(1.25)
        system.stage.sandbox.control.faults()
    if (most := system.most_attempts()) < hours // 3:
        raise AssertionError(f"this was no outage: no operation had more than {most} attempts")


def access_refused(system: System, seconds: float = 20.0) -> None:
    """B2COPY answers 403 to every call. All operations wait."""
    with system.fault():
        system.stage.sandbox.control.faults({"what": "status", "status": 403, "route": "api"})
        system.go_on(seconds)
        system.stage.sandbox.control.faults()


def access_refused_for_one_login(system: System, count: int = 3, within: float = 90.0) -> None:
    """B2COPY answers 403 about one login: its operations end as `rejected`, and no other operation waits for access."""
    keys = [f"fees.process:refused-{number}" for number in range(count)]
    with system.fault():
        system.stage.sandbox.control.faults({"what": "status", "status": 403, "match": "refused-"})
        system.request(*({"account_login": "none_due", "request_id": key.partition(":")[2]} for key in keys))
        until(lambda: system.count(c.key.in_(keys), c.ended_at.is_not(None)) == count, within=within, every=0.5)
        others = system.count(c.key.not_in(keys), c.wait_reason == "no_access")
        system.stage.sandbox.control.faults()
    expect_outcome(system, keys, "rejected")
    if others:
        raise AssertionError(f"{others} operations of other logins wait for access")


def rate_limited(system: System) -> None:
    """B2COPY answers one 429 with Retry-After under a backlog. No worker sends a request before that time is over."""
    control, backlog = system.stage.sandbox.control, c.key.startswith("fees.process:backlog-")
    control.switches(call_log=True)
    with system.fault():
        system.request(*({"account_login": "none_due", "request_id": f"backlog-{number}"} for number in range(2000)))
        until(lambda: system.count(backlog, c.state == "succeeded") >= 200, within=30)
        control.faults({"what": "status", "status": 429, "retry_after": f"{RETRY_AFTER_S:g}", "next": 1})
        until(lambda: any(call["status"] == 429 for call in control.calls()))
        system.go_on(RETRY_AFTER_S + 1.0)
        calls = control.calls()
        if system.count(backlog, c.state != "succeeded") < 500:
            raise AssertionError("the backlog was too short for a test")
    held_from = next(call["answered"] for call in calls if call["status"] == 429)
    early = [call["arrived"] - held_from for call in calls if 0 < call["arrived"] - held_from < RETRY_AFTER_S]
    sent_anyway = [after_s for after_s in early if after_s > IN_FLIGHT_S]
    if sent_anyway:
        raise AssertionError(
            f"{len(sent_anyway)} requests were sent during the hold, the last {max(sent_anyway):.2f} s after the 429"
        )
    if not any(call["arrived"] > held_from + RETRY_AFTER_S for call in calls):
        raise AssertionError("no request was sent within 1 s after the hold")


def conflict_after_lost_answer(system: System, each: int = 3) -> None:
    """A call that may be repeated loses its answer, and B2COPY answers 409 to the second request: `unresolved`."""
    faults: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for lost in ("drop", "reset", "cut"):
        for number in range(each):
            name = f"conflict-{lost}-{number}"
            faults.append({"what": lost, "effect": "done", "next": 1, "match": f'"{name}"'})
            faults.append({"what": "status", "status": 409, "match": f'"{name}"'})
            rows.append({"path": PATH, "payload": {"name": name}, "key": name, "repeatable": True})
    keys = [f"call:{row['key']}" for row in rows]
    with system.fault():
        system.stage.sandbox.control.faults(*faults)
        system.request(*rows, kind="call")
        until(lambda: system.count(c.key.in_(keys), c.ended_at.is_not(None)) == len(keys), within=30, every=0.2)
        system.stage.sandbox.control.faults()
    expect_outcome(system, keys, "unresolved")


def interim_responses(system: System, seconds: float = 5.0) -> None:
    """B2COPY sends 102 and 103 before every answer: each call is made once and has its own answer."""
    with system.fault():
        system.stage.sandbox.control.faults({"what": "interim", "route": "api"})
        system.go_on(seconds)
        system.stage.sandbox.control.faults()


def expect_outcome(system: System, keys: Collection[str], failure_reason: str) -> None:
    """Raise AssertionError unless all these operations failed for this reason."""
    wanted = select(c.key, c.state, c.failure_reason).where(c.key.in_(keys))
    with system.ledger() as ledger, ledger.reading() as connection:
        rows = connection.execute(wanted).all()
    others = [f"{row.key} {row.state} {row.failure_reason}" for row in rows if row.failure_reason != failure_reason]
    if others or len(rows) != len(keys):
        raise AssertionError(f"not {failure_reason}: {', '.join(others)}; {len(rows)} of {len(keys)} operations exist")
