"""How each withdrawal ended, and whether that is what its row expects."""

from dataclasses import asdict, dataclass
from typing import Any

from worker.demo.read_withdrawals import Withdrawal
from worker.ledger import Ledger, attempts_of, find_many
from worker.operation import Operation, State


@dataclass(frozen=True)
class Ending:
    """How one withdrawal ended: `end` is `succeeded` or the failure reason, `message` is B2COPY's own text."""

    row: Withdrawal
    end: str
    polls: int
    message: str

    @property
    def is_expected(self) -> bool:
        """Whether it ended as the row expects, with the row's message."""
        return self.end == self.row.must_end and self.row.message in self.message


@dataclass(frozen=True)
class Check:
    """One figure that must hold for the demo to pass."""

    name: str
    value: int
    required: str
    holds: bool


@dataclass(frozen=True)
class Report:
    """`seconds` is the time from the first withdrawal's request to the last one's end."""

    endings: list[Ending]
    checks: list[Check]
    calls: int
    seconds: float

    @property
    def unexpected(self) -> list[Ending]:
        return [ending for ending in self.endings if not ending.is_expected]

    @property
    def passed(self) -> bool:
        """Whether every withdrawal ended as its row expects and every check holds."""
        return not self.unexpected and all(check.holds for check in self.checks)

    @property
    def polls(self) -> int:
        return sum(ending.polls for ending in self.endings)

    def document(self) -> dict[str, Any]:
        """Return the report as one JSON document, for `--json`."""
        ended: dict[str, int] = {}
        for ending in self.endings:
            ended[ending.end] = ended.get(ending.end, 0) + 1
        return {
            "passed": self.passed,
            "withdrawals": len(self.endings),
            "ended": ended,
            "checks": [asdict(check) for check in self.checks],
            "calls": self.calls,
            "polls": self.polls,
            "seconds": round(self.seconds, 1),
            "unexpected": [
                {
                    "request_id": ending.row.request_id,
                    "must_end": ending.row.must_end,
                    "ended": ending.end,
                    "message": ending.message,
                }
                for ending in self.unexpected
            ],
        }


def compare(ledger: Ledger, rows: list[Withdrawal], counters: dict[str, Any], restarts: int) -> Report:
    """Compare the ledger with the rows, and the sandbox's `counters` with their required values.

    `restarts` is how often a process died and was started again.
    """
    operations = find_many(ledger, [row.key for row in rows])
    endings = [_ending(ledger, row, operations.get(row.key)) for row in rows]
    twice = counters["effects"].get("fees.process", {}).get("more_than_once", 0)
    checks = [
        Check("logins", counters["logins"], "exactly 1", counters["logins"] == 1),
        Check("refreshes before expiry", counters["refreshes"], "at least 1", counters["refreshes"] >= 1),
        Check("refresh tokens used twice", counters["refresh_reuses"], "none", counters["refresh_reuses"] == 0),
        Check("calls refused with 401", counters["unauthorized"], "none", counters["unauthorized"] == 0),
        Check("fee runs started twice", twice, "none", twice == 0),
        Check("processes that died", restarts, "none", restarts == 0),
    ]
    found = operations.values()
    first = min((operation.requested_at for operation in found), default=0)
    last = max((operation.ended_at or operation.state_since for operation in found), default=0)
    return Report(endings, checks, counters["calls"].get("processext", 0), (last - first) / 1000)


def _ending(ledger: Ledger, row: Withdrawal, operation: Operation | None) -> Ending:
    if operation is None:
        return Ending(row, "not in the ledger", 0, "")
    if operation.state is not State.FAILED:
        return Ending(row, operation.wait_reason or operation.state, operation.polls, "")
    attempts = attempts_of(ledger, operation.id)
    message = (attempts[-1].message or "") if attempts else ""
    return Ending(row, operation.failure_reason or "failed", operation.polls, message)
