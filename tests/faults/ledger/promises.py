"""What was promised, compared with what happened: the CRM's notes, the ledger, and the sandbox's log of effects."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import exists, select

from tests.faults.ledger.crm import FEE_RUNS, ROLLED_BACK
from tests.faults.ledger.system import System
from worker.ledger.schema import attempts, c

EXPECTED = {
    "none_due": ("succeeded", None),
    "pending": ("succeeded", None),
    "error": ("failed", "fee_error"),
    "call": ("succeeded", None),
    "ordered": ("succeeded", None),
    "repeatable": ("succeeded", None),
}
NOT_REPEATED = {"call", "ordered"}  # if its outcome is unknown, such a call ends as `unresolved`, for a person

SLOW_S = 12.0  # longer than a lapsed lease and the next dispatch together
DRAINED_S = 15.0  # after the end of a fault everything is final


@dataclass(frozen=True)
class Accepted:
    """A request that the CRM wrote down: by which client, what of the mix, the key, and when (Unix time, s)."""

    client: str
    what: str
    key: str
    at: float

    @property
    def name(self) -> str:
        """The natural id in the key: the request_id of a fee run, the name that a call sends."""
        return self.key.partition(":")[2]


def accepted(system: System) -> list[Accepted]:
    found = []
    for client in system.clients:
        for line in (system.notes / f"{client}.notes").read_text().splitlines():
            found.append(Accepted(client, *json.loads(line)))
    return found


def operations_by_key(system: System) -> dict[str, Any]:
    columns = (c.id, c.key, c.state, c.failure_reason, c.requested_at, c.ended_at, c.result)
    has_evidence = exists().where(attempts.c.operation_id == c.id).label("has_evidence")
    with system.ledger() as ledger, ledger.reading() as connection:
        return {row.key: row for row in connection.execute(select(*columns, has_evidence)).all()}


def effects_by_key(system: System) -> dict[str, int]:
    """Return how often B2COPY carried out each operation."""
    times: dict[str, int] = {}
    for effect in system.environment.sandbox.control.effects():
        if effect["kind"] == "fees.process":
            times[f"fees.process:{effect['key'].partition('/')[2]}"] = effect["times"]
        else:
            times[f"call:{effect['body']['name']}"] = effect["times"]
    return times


def result_of_another(request: Accepted, row: Any) -> str | None:
    """Return what is wrong if a call succeeded with a result that is not its own: the sandbox answers what was sent."""
    if request.what in FEE_RUNS or row.state != "succeeded":
        return None
    if row.result is not None and json.loads(row.result) == {"name": request.name}:
        return None
    return f"{request.key} has the result {row.result}"


def figures(system: System) -> dict[str, Any]:
    """Return the row of the table. Keys that break a promise are printed to stderr."""
    notes = accepted(system)
    requests = [each for each in notes if each.what != ROLLED_BACK]
    recorded, effects = operations_by_key(system), effects_by_key(system)
    found: dict[str, list[str]] = {name: [] for name in ("never", "twice", "wrong", "no evidence", "lost", "slow")}
    found["wrong"] = [
        f"{each.key} was rolled back" for each in notes if each.what == ROLLED_BACK and each.key in recorded
    ]
    unresolved, drained_s = 0, 0.0
    for request in requests:
        row, times = recorded.get(request.key), effects.get(request.key, 0)
        if row is None:
            found["lost" if request.client == "message" else "never"].append(request.key)
            continue
        outcome = (row.state, row.failure_reason)
        is_unresolved = request.what in NOT_REPEATED and outcome == ("failed", "unresolved")
        unresolved += is_unresolved
        if times > 1 and request.what != "repeatable":
            found["twice"].append(request.key)
        if not is_unresolved and (times == 0 or row.failure_reason == "unresolved"):
            found["never"].append(request.key)
        if not is_unresolved and outcome != EXPECTED[request.what]:
            found["wrong"].append(f"{request.key} {row.state} {row.failure_reason}")
        if problem := result_of_another(request, row):
            found["wrong"].append(problem)
        if not row.has_evidence:
            found["no evidence"].append(request.key)
        if row.ended_at is not None:
            after_s = row.ended_at / 1000 - max(system.fault_ended, request.at)
            drained_s = max(drained_s, after_s)
            if after_s > SLOW_S:
                found["slow"].append(f"{request.key} ({after_s:.1f} s)")
    for name, keys in found.items():
        if keys:
            print(f"    {name}: {', '.join(keys[:8])}", file=sys.stderr, flush=True)
    sent = sum(each.client == "message" for each in requests)
    return {
        "enqueued": len(requests) - sent,
        "sent": sent,
        "recorded": sent - len(found["lost"]),
        "once": sum(effects.get(each.key) == 1 for each in requests),
        "twice": len(found["twice"]),
        "never": len(found["never"]),
        "unresolved": unresolved,
        "wrong": len(found["wrong"]),
        "no evidence": len(found["no evidence"]),
        "drained s": drained_s,
        "starts": sum(worker.started for worker in system.workers),
    }


def safe(row: Mapping[str, Any]) -> list[str]:
    """Return what must hold in every scenario and does not."""
    problems = [f"{row[name]} {name}" for name in ("never", "twice", "wrong", "no evidence") if row[name]]
    if row["drained s"] > DRAINED_S:
        problems.append(f"drained only {row['drained s']:.1f} s after the fault")
    return problems


def nearly_lossless(row: Mapping[str, Any], kills: int = 3) -> list[str]:
    """As `safe`. A killed worker loses at most one message: Redis has delivered it, kombu has not yet stored that."""
    lost = row["sent"] - row["recorded"]
    return [*safe(row), *([f"{lost} messages lost"] if lost > kills else [])]


def lossless(row: Mapping[str, Any]) -> list[str]:
    """As `safe`, and every message that was sent is recorded."""
    return nearly_lossless(row, kills=0)


def none_unresolved(row: Mapping[str, Any]) -> list[str]:
    """As `lossless`, and no operation is `unresolved`: every call was answered, and no worker died."""
    return [*lossless(row), *([f"{row['unresolved']} answered calls are unresolved"] if row["unresolved"] else [])]
