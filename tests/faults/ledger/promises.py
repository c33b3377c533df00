"""What was promised, compared with what happened: the CRM's notes, the ledger, and the sandbox's log of effects."""

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sqlalchemy import exists, select

from tests.faults.ledger.crm import FEE_RUNS, PATH, ROLLED_BACK
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

    @property
    def effect_key(self) -> str:
        """The key of its effect in the sandbox's log: login and request_id, or path and body."""
        if self.what in FEE_RUNS:
            return f"{self.what}/{self.name}"
        return f"{PATH} {json.dumps({'name': self.name})}"


def accepted(system: System) -> list[Accepted]:
    found = []
    for client in system.clients:
        for line in (system.notes / f"{client}.notes").read_text().splitlines():
            found.append(Accepted(client, *json.loads(line)))
    return found


def operations_by_key(system: System) -> dict[str, Any]:
    columns = (
        c.id, c.key, c.entity, c.replays, c.state, c.failure_reason, c.requested_at, c.ended_at, c.result,
    )  # fmt: skip
    has_evidence = exists().where(attempts.c.operation_id == c.id).label("has_evidence")
    with system.ledger() as ledger, ledger.reading() as connection:
        return {row.key: row for row in connection.execute(select(*columns, has_evidence)).all()}


@dataclass
class Effects:
    """What B2COPY carried out for one operation. `first_at` is on the sandbox's monotonic clock, s."""

    times: int
    first_at: float
    keys: list[str]


def effects_by_key(system: System) -> dict[str, Effects]:
    """Return what B2COPY carried out for each operation."""
    return by_operation(system.environment.sandbox.control.effects())


def by_operation(log: Iterable[Mapping[str, Any]]) -> dict[str, Effects]:
    """Add up the sandbox's log of effects. It has an entry for each login, path and body with which one was sent."""
    found: dict[str, Effects] = {}
    for effect in log:
        if effect["kind"] == "fees.process":
            key = f"fees.process:{effect['key'].partition('/')[2]}"
        else:
            key = f"call:{effect['body'].get('name')}"
        total = found.setdefault(key, Effects(0, effect["first_at"], []))
        total.times += effect["times"]
        total.first_at = min(total.first_at, effect["first_at"])
        total.keys.append(effect["key"])
    return found


def not_as_requested(request: Accepted, effects: Effects | None) -> list[str]:
    """Return each effect of a request with another login, path or body than was requested."""
    others = [key for key in effects.keys if key != request.effect_key] if effects is not None else []
    return [f"{request.key} was carried out as {key}" for key in others]


def not_recorded(effects: Iterable[str], recorded: Mapping[str, Any]) -> list[str]:
    """Return what B2COPY carried out although the ledger has no such operation."""
    return [f"{key} was carried out, but is not in the ledger" for key in effects if key not in recorded]


def overtaken(requests: Iterable[Accepted], recorded: Mapping[str, Any], effects: Mapping[str, Effects]) -> list[str]:
    """Return the ordered calls that B2COPY carried out before the call ahead of them in the line of their entity."""
    lines: dict[str, list[tuple[int, str]]] = {}
    for request in requests:
        row = recorded.get(request.key)
        # A replayed operation has gone to the end of the line.
        if request.what == "ordered" and row is not None and row.replays == 0 and request.key in effects:
            lines.setdefault(row.entity, []).append((row.id, request.key))
    return [
        f"{key} was carried out before {ahead} ({entity})"
        for entity, line in lines.items()
        for (_, ahead), (_, key) in pairwise(sorted(line))
        if effects[key].first_at < effects[ahead].first_at
    ]


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
    found["wrong"] += not_recorded(effects, recorded) + overtaken(requests, recorded, effects)
    unresolved, drained_s = 0, 0.0
    for request in requests:
        row, carried_out = recorded.get(request.key), effects.get(request.key)
        times = carried_out.times if carried_out is not None else 0
        found["wrong"] += not_as_requested(request, carried_out)
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
        "once": sum(each.key in effects and effects[each.key].times == 1 for each in requests),
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
    """As `lossless`, and no operation is `unresolved`: every call was answered, and no worker was killed."""
    return [*lossless(row), *([f"{row['unresolved']} answered calls are unresolved"] if row["unresolved"] else [])]
