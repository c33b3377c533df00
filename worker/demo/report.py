"""What came of the demo, and whether it is what had to come of it."""

from dataclasses import asdict, dataclass
from typing import Any

from worker.demo.rows import Withdrawal
from worker.ledger import Ledger, attempts_of, find_many
from worker.operation import AttemptRecord, Operation, State


@dataclass(frozen=True)
class Ending:
    """How one withdrawal ended: `how` is `succeeded` or the reason, `words` are B2COPY's own."""

    row: Withdrawal
    how: str
    polls: int
    words: str

    @property
    def as_told(self) -> bool:
        """Whether the row foretold it, words included."""
        return self.how == self.row.must_end and self.row.words in self.words


@dataclass(frozen=True)
class Check:
    """One figure that the demo stands or falls by."""

    what: str
    value: int
    wanted: str
    holds: bool


@dataclass(frozen=True)
class Report:
    """Seconds are from the first withdrawal's enqueueing to the last one's end."""

    endings: list[Ending]
    checks: list[Check]
    calls: int
    seconds: float

    @property
    def differing(self) -> list[Ending]:
        return [ending for ending in self.endings if not ending.as_told]

    @property
    def passed(self) -> bool:
        """Whether every withdrawal ended as its row says and every figure holds."""
        return not self.differing and all(check.holds for check in self.checks)

    @property
    def polls(self) -> int:
        return sum(ending.polls for ending in self.endings)

    def told(self) -> dict[str, Any]:
        """For `--json`."""
        ended: dict[str, int] = {}
        for ending in self.endings:
            ended[ending.how] = ended.get(ending.how, 0) + 1
        return {
            "passed": self.passed,
            "withdrawals": len(self.endings),
            "ended": ended,
            "checks": [asdict(check) for check in self.checks],
            "calls": self.calls,
            "polls": self.polls,
            "seconds": round(self.seconds, 1),
            "differing": [
                {"request_id": one.row.request_id, "must_end": one.row.must_end, "ended": one.how, "words": one.words}
                for one in self.differing
            ],
        }


def judge(ledger: Ledger, rows: list[Withdrawal], counters: dict[str, Any], restarts: int) -> Report:
    """Compare what stands in the ledger with the rows, and what the sandbox counted with what must be.

    `restarts` is how often a process died and was started again.
    """
    operations = find_many(ledger, [row.key for row in rows])
    endings = [_ending(ledger, row, operations.get(row.key)) for row in rows]
    twice = counters["effects"].get("fees.process", {}).get("more_than_once", 0)
    checks = [
        Check("logins", counters["logins"], "exactly 1", counters["logins"] == 1),
        Check("refreshes ahead of expiry", counters["refreshes"], "at least 1", counters["refreshes"] >= 1),
        Check("refresh tokens used twice", counters["refresh_reuses"], "none", counters["refresh_reuses"] == 0),
        Check("calls refused with 401", counters["unauthorized"], "none", counters["unauthorized"] == 0),
        Check("fee runs started twice", twice, "none", twice == 0),
        Check("processes that died", restarts, "none", restarts == 0),
    ]
    found = operations.values()
    began = min((operation.requested_at for operation in found), default=0)
    ended = max((operation.ended_at or operation.state_since for operation in found), default=0)
    return Report(endings, checks, counters["calls"].get("processext", 0), (ended - began) / 1000)


def _ending(ledger: Ledger, row: Withdrawal, operation: Operation | None) -> Ending:
    if operation is None:
        return Ending(row, "not in the ledger", 0, "")
    if operation.state is not State.FAILED:
        return Ending(row, operation.wait_reason or operation.state, operation.polls, "")
    tried: list[AttemptRecord] = attempts_of(ledger, operation.id)
    return Ending(
        row, operation.failure_reason or "failed", operation.polls, (tried[-1].message or "") if tried else ""
    )
